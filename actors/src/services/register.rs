//! XEP-0077 on a bound stream: changing the password, removing the account.

use xmpp::jid::BareJid;
use xmpp::registration::RegistrationRequest;
use xmpp::scan::Element;
use xmpp::stanza_error::Condition;

use super::Service;

/// A request of a bound stream; a password is changed for the own account only.
pub fn bound(element: Element<'_>, set: bool, user: &BareJid) -> Service {
    match RegistrationRequest::parse(element, set) {
        Ok(RegistrationRequest::Fields) => {
            Service::Answer(xmpp::registration::fields(user.local()))
        }
        Ok(RegistrationRequest::Submit { username, .. })
            if Some(username.as_str()) != user.local() =>
        {
            Service::refuse(Condition::NotAllowed)
        }
        Ok(RegistrationRequest::Submit { password, .. }) => Service::ChangePassword(password),
        Ok(RegistrationRequest::Remove) => Service::Remove,
        Err(error) => Service::refuse(error.condition()),
    }
}
