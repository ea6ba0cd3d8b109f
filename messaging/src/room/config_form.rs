//! The configuration form: what is shown to owners and what they send back. XEP-0045 §10.1.3, §10.2, §16.5.3.
//!
//! Fields that aren't known here are ignored; a value that can't be is refused as not acceptable.

use bytes::Bytes;
use xmpp::ns;
use xmpp::write::XmlWriter;

use super::command::FormFields;
use super::refusal::Refusal;
use super::state::{PrivateMessages, RoomConfig, Secret};

/// Bytes of a name, a language or a password at most.
const LINE_BYTES_MAX: usize = 1_023;
/// Bytes of a description at most.
const DESCRIPTION_BYTES_MAX: usize = 8_192;
/// The most messages a room may show on joining.
const HISTORY_MAX: u32 = 500;

/// The form's `<query/>`, filled in with what is.
pub fn form(config: &RoomConfig) -> Bytes {
    let mut writer = XmlWriter::new(ns::CLIENT);
    writer
        .start_ns("query", ns::MUC_OWNER)
        .start_ns("x", ns::DATA_FORM)
        .attr("type", "form");
    writer.leaf("title", "Room configuration");
    hidden(&mut writer, ns::MUC_ROOM_CONFIG);
    write_description(&mut writer, config);
    write_access(&mut writer, config);
    write_visibility(&mut writer, config);
    writer.end().end();
    writer.finish()
}

/// What the room is.
fn write_description(writer: &mut XmlWriter, config: &RoomConfig) {
    text(
        writer,
        "muc#roomconfig_roomname",
        "text-single",
        "Name",
        &config.name,
    );
    text(
        writer,
        "muc#roomconfig_roomdesc",
        "text-single",
        "Description",
        &config.description,
    );
    text(
        writer,
        "muc#roomconfig_lang",
        "text-single",
        "Language of the discussions",
        &config.lang,
    );
    switch(
        writer,
        "muc#roomconfig_persistentroom",
        "Keep the room when everybody has left",
        config.persistent,
    );
    switch(
        writer,
        "muc#roomconfig_publicroom",
        "List the room",
        config.public,
    );
}

/// Who may enter and speak.
fn write_access(writer: &mut XmlWriter, config: &RoomConfig) {
    switch(
        writer,
        "muc#roomconfig_membersonly",
        "Only members may enter",
        config.members_only,
    );
    switch(
        writer,
        "muc#roomconfig_allowinvites",
        "Members may invite others",
        config.allow_invites,
    );
    switch(
        writer,
        "muc#roomconfig_moderatedroom",
        "Only who has voice may write",
        config.moderated,
    );
    switch(
        writer,
        "muc#roomconfig_changesubject",
        "Participants may change the subject",
        config.change_subject,
    );
    let protected = config.password.is_some();
    switch(
        writer,
        "muc#roomconfig_passwordprotectedroom",
        "Entering requires a password",
        protected,
    );
    let secret = config
        .password
        .as_ref()
        .map_or("", |secret| secret.0.as_str());
    text(
        writer,
        "muc#roomconfig_roomsecret",
        "text-private",
        "The password",
        secret,
    );
}

/// Who sees what, and how much of it.
fn write_visibility(writer: &mut XmlWriter, config: &RoomConfig) {
    let whois = if config.non_anonymous {
        "anyone"
    } else {
        "moderators"
    };
    let choices = [("Moderators", "moderators"), ("Everybody", "anyone")];
    list(
        writer,
        "muc#roomconfig_whois",
        "Who sees real addresses",
        whois,
        &choices,
    );
    let choices = PRIVATE_MESSAGES.map(|(_, value, label)| (label, value));
    let value = private_messages_name(config.private_messages);
    list(
        writer,
        "muc#roomconfig_allowpm",
        "Who may send private messages",
        value,
        &choices,
    );
    let history = config.history_max.to_string();
    text(
        writer,
        "muc#maxhistoryfetch",
        "text-single",
        "Messages shown on entering",
        &history,
    );
    let users = if config.occupants_max == 0 {
        "none".to_owned()
    } else {
        config.occupants_max.to_string()
    };
    let choices = [
        ("No limit", "none"),
        ("10", "10"),
        ("30", "30"),
        ("100", "100"),
        ("300", "300"),
        ("1000", "1000"),
    ];
    let own = [(users.as_str(), users.as_str())];
    let known = choices.iter().any(|(_, value)| *value == users);
    let choices: Vec<_> = choices
        .iter()
        .chain(own.iter().filter(|_| !known))
        .copied()
        .collect();
    list(
        writer,
        "muc#roomconfig_maxusers",
        "Occupants at most",
        &users,
        &choices,
    );
    switch(
        writer,
        "muc#roomconfig_enablelogging",
        "Archive the discussions",
        config.archived,
    );
}

const PRIVATE_MESSAGES: [(PrivateMessages, &str, &str); 4] = [
    (PrivateMessages::Anyone, "anyone", "Everybody"),
    (
        PrivateMessages::Participants,
        "participants",
        "Who has voice",
    ),
    (PrivateMessages::Moderators, "moderators", "Moderators"),
    (PrivateMessages::None, "none", "Nobody"),
];

fn private_messages_name(value: PrivateMessages) -> &'static str {
    PRIVATE_MESSAGES
        .iter()
        .find(|(known, _, _)| *known == value)
        .map_or("anyone", |(_, name, _)| name)
}

fn hidden(writer: &mut XmlWriter, form_type: &str) {
    writer
        .start("field")
        .attr("var", "FORM_TYPE")
        .attr("type", "hidden")
        .leaf("value", form_type)
        .end();
}

fn text(writer: &mut XmlWriter, var: &str, kind: &str, label: &str, value: &str) {
    writer
        .start("field")
        .attr("var", var)
        .attr("type", kind)
        .attr("label", label)
        .leaf("value", value)
        .end();
}

fn switch(writer: &mut XmlWriter, var: &str, label: &str, on: bool) {
    text(writer, var, "boolean", label, if on { "1" } else { "0" });
}

fn list(writer: &mut XmlWriter, var: &str, label: &str, value: &str, choices: &[(&str, &str)]) {
    writer
        .start("field")
        .attr("var", var)
        .attr("type", "list-single")
        .attr("label", label)
        .leaf("value", value);
    for (label, value) in choices {
        writer
            .start("option")
            .attr("label", label)
            .leaf("value", value)
            .end();
    }
    writer.end();
}

/// The configuration after a submitted form.
///
/// # Errors
/// [`Refusal::FormUnacceptable`] for a value that can't be, or a protected room without a password.
pub fn submitted(old: &RoomConfig, fields: &FormFields) -> Result<RoomConfig, Refusal> {
    let mut config = old.clone();
    let (mut protected, mut secret) = (old.password.is_some(), None);
    for (var, values) in &fields.0 {
        let value = values.first().map_or("", String::as_str);
        match var.as_str() {
            "muc#roomconfig_roomname" => config.name = line(value, LINE_BYTES_MAX)?,
            // A text-multi field sends one value a line.
            "muc#roomconfig_roomdesc" => {
                config.description = line(&values.join("\n"), DESCRIPTION_BYTES_MAX)?
            }
            "muc#roomconfig_lang" => config.lang = line(value, LINE_BYTES_MAX)?,
            "muc#roomconfig_persistentroom" => config.persistent = boolean(value)?,
            "muc#roomconfig_publicroom" => config.public = boolean(value)?,
            "muc#roomconfig_membersonly" => config.members_only = boolean(value)?,
            "muc#roomconfig_allowinvites" => config.allow_invites = boolean(value)?,
            "muc#roomconfig_moderatedroom" => config.moderated = boolean(value)?,
            "muc#roomconfig_changesubject" => config.change_subject = boolean(value)?,
            "muc#roomconfig_passwordprotectedroom" => protected = boolean(value)?,
            "muc#roomconfig_roomsecret" => secret = Some(line(value, LINE_BYTES_MAX)?),
            "muc#roomconfig_whois" => config.non_anonymous = whois(value)?,
            "muc#roomconfig_allowpm" => config.private_messages = private_messages(value)?,
            "muc#maxhistoryfetch" => config.history_max = number(value)?.min(HISTORY_MAX),
            "muc#roomconfig_maxusers" => config.occupants_max = occupants_max(value)?,
            "muc#roomconfig_enablelogging" => config.archived = boolean(value)?,
            _ => {}
        }
    }
    config.password = match (protected, secret) {
        (false, _) => None,
        (true, None) => old.password.clone(),
        (true, Some(secret)) => Some(Secret(secret)),
    };
    // §10.1.3: a protected room with a blank password is not acceptable.
    if protected
        && config
            .password
            .as_ref()
            .is_none_or(|secret| secret.0.is_empty())
    {
        return Err(Refusal::FormUnacceptable);
    }
    Ok(config)
}

fn line(value: &str, bytes_max: usize) -> Result<String, Refusal> {
    if value.len() > bytes_max {
        Err(Refusal::FormUnacceptable)
    } else {
        Ok(value.to_owned())
    }
}

/// XEP-0004 §3.3: 0, 1, false, true.
fn boolean(value: &str) -> Result<bool, Refusal> {
    match value {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err(Refusal::FormUnacceptable),
    }
}

fn number(value: &str) -> Result<u32, Refusal> {
    value.trim().parse().map_err(|_| Refusal::FormUnacceptable)
}

fn whois(value: &str) -> Result<bool, Refusal> {
    match value {
        "anyone" => Ok(true),
        "moderators" => Ok(false),
        _ => Err(Refusal::FormUnacceptable),
    }
}

fn private_messages(value: &str) -> Result<PrivateMessages, Refusal> {
    let known = PRIVATE_MESSAGES.iter().find(|(_, name, _)| *name == value);
    known
        .map(|(value, _, _)| *value)
        .ok_or(Refusal::FormUnacceptable)
}

fn occupants_max(value: &str) -> Result<u32, Refusal> {
    if value == "none" {
        Ok(0)
    } else {
        number(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(fields: &[(&str, &str)], expect: Result<fn(&mut RoomConfig), Refusal>) {
        let fields = fields
            .iter()
            .map(|(var, value)| ((*var).to_owned(), vec![(*value).to_owned()]))
            .collect();
        let expect = expect.map(|change| {
            let mut config = RoomConfig::default();
            change(&mut config);
            config
        });
        assert_eq!(
            submitted(&RoomConfig::default(), &FormFields(fields)),
            expect
        );
    }

    #[test]
    fn every_field_is_taken_over_and_bad_values_are_refused() {
        check(&[], Ok(|_| {}));
        check(
            &[("FORM_TYPE", "x"), ("muc#roomconfig_unheard_of", "?")],
            Ok(|_| {}),
        );
        check(
            &[("muc#roomconfig_roomname", "Den")],
            Ok(|c| c.name = "Den".into()),
        );
        check(
            &[("muc#roomconfig_roomdesc", "A den")],
            Ok(|c| c.description = "A den".into()),
        );
        check(
            &[("muc#roomconfig_lang", "en")],
            Ok(|c| c.lang = "en".into()),
        );
        check(
            &[("muc#roomconfig_persistentroom", "1")],
            Ok(|c| c.persistent = true),
        );
        check(
            &[("muc#roomconfig_publicroom", "false")],
            Ok(|c| c.public = false),
        );
        check(
            &[("muc#roomconfig_membersonly", "true")],
            Ok(|c| c.members_only = true),
        );
        check(
            &[("muc#roomconfig_allowinvites", "1")],
            Ok(|c| c.allow_invites = true),
        );
        check(
            &[("muc#roomconfig_moderatedroom", "1")],
            Ok(|c| c.moderated = true),
        );
        check(
            &[("muc#roomconfig_changesubject", "1")],
            Ok(|c| c.change_subject = true),
        );
        check(
            &[("muc#roomconfig_whois", "anyone")],
            Ok(|c| c.non_anonymous = true),
        );
        check(
            &[("muc#roomconfig_allowpm", "none")],
            Ok(|c| c.private_messages = PrivateMessages::None),
        );
        check(&[("muc#maxhistoryfetch", "0")], Ok(|c| c.history_max = 0));
        check(
            &[("muc#maxhistoryfetch", "1000000")],
            Ok(|c| c.history_max = 500),
        );
        check(&[("muc#roomconfig_maxusers", "none")], Ok(|_| {}));
        check(
            &[("muc#roomconfig_maxusers", "30")],
            Ok(|c| c.occupants_max = 30),
        );
        check(
            &[("muc#roomconfig_enablelogging", "0")],
            Ok(|c| c.archived = false),
        );
        check(
            &[
                ("muc#roomconfig_passwordprotectedroom", "1"),
                ("muc#roomconfig_roomsecret", "s"),
            ],
            Ok(|c| c.password = Some(Secret("s".into()))),
        );
        check(&[("muc#roomconfig_roomsecret", "s")], Ok(|_| {}));
        for (var, value) in [
            ("muc#roomconfig_passwordprotectedroom", "1"),
            ("muc#roomconfig_membersonly", "yes"),
            ("muc#roomconfig_publicroom", ""),
            ("muc#roomconfig_whois", "none"),
            ("muc#roomconfig_allowpm", "me"),
            ("muc#maxhistoryfetch", "-1"),
            ("muc#roomconfig_maxusers", "many"),
        ] {
            check(&[(var, value)], Err(Refusal::FormUnacceptable));
        }
        let blank = [
            ("muc#roomconfig_passwordprotectedroom", "1"),
            ("muc#roomconfig_roomsecret", ""),
        ];
        check(&blank, Err(Refusal::FormUnacceptable));
        let long = "x".repeat(1_024);
        check(
            &[("muc#roomconfig_roomname", &long)],
            Err(Refusal::FormUnacceptable),
        );
    }

    #[test]
    fn the_form_shown_and_sent_back_changes_nothing() {
        let config = RoomConfig {
            name: "A & B".into(),
            password: Some(Secret("<s>".into())),
            occupants_max: 7,
            non_anonymous: true,
            private_messages: PrivateMessages::Participants,
            ..RoomConfig::default()
        };
        let document =
            xmpp::scan::Document::parse(form(&config), &xmpp::scan::Limits::OWN).unwrap();
        let x = document.root().child("x", ns::DATA_FORM).unwrap();
        let fields = crate::room::parse::form_fields(&x);
        assert_eq!(fields.0.len(), 17);
        assert_eq!(submitted(&config, &fields), Ok(config));
    }
}
