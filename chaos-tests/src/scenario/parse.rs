//! Reading scripts.

/// A script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scenario {
    /// The file's name.
    pub name: String,
    /// Who takes part.
    pub clients: Vec<ClientPart>,
    /// What happens, in order.
    pub steps: Vec<Step>,
}

/// Somebody who takes part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientPart {
    /// The name in the script.
    pub name: String,
    /// The account's address, perhaps with a resource.
    pub jid: String,
    /// The password; scripts keep it for scansion, the runner makes its own.
    pub password: String,
}

/// One step and the line it starts at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The line.
    pub line: usize,
    /// Who acts; an index into the clients.
    pub client: usize,
    /// What is done.
    pub action: Action,
}

/// What a client does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Logs in and binds.
    Connect,
    /// Logs in and binds nothing; elsewhere: on another node than usual.
    Authenticate {
        /// Where.
        elsewhere: bool,
    },
    /// Ends its stream.
    Disconnect,
    /// Drops its socket.
    CutOff,
    /// Sends XML.
    Send(String),
    /// Receives stanzas next, in any order among them.
    Receive(String),
    /// Receives a stanza, perhaps after others.
    ReceiveEventually(String),
    /// Receives nothing.
    ReceiveNothing,
    /// Sees its stream end.
    StreamEnds,
}

/// A script that does not read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}:{line}: {reason}")]
pub struct ParseError {
    /// The file's name.
    pub name: String,
    /// The line.
    pub line: usize,
    /// What is wrong.
    pub reason: String,
}

impl Scenario {
    /// Reads a script.
    pub fn parse(name: &str, text: &str) -> Result<Scenario, ParseError> {
        let mut reader = Reader {
            scenario: Scenario {
                name: name.to_owned(),
                clients: Vec::new(),
                steps: Vec::new(),
            },
            in_head: true,
        };
        for (at, line) in text.lines().enumerate() {
            reader.line(line).map_err(|reason| ParseError {
                name: name.to_owned(),
                line: at + 1,
                reason,
            })?;
            if let Some(step) = reader
                .scenario
                .steps
                .last_mut()
                .filter(|step| step.line == 0)
            {
                step.line = at + 1;
            }
        }
        reader.finish(name, text.lines().count())
    }
}

struct Reader {
    scenario: Scenario,
    in_head: bool,
}

impl Reader {
    fn line(&mut self, line: &str) -> Result<(), String> {
        let text = line.trim();
        if text.is_empty() || line.starts_with('#') {
            return Ok(());
        }
        if text.starts_with("-----") {
            self.in_head = false;
            return Ok(());
        }
        match (self.in_head, line.starts_with(char::is_whitespace)) {
            (true, false) => self.client(text),
            (true, true) => self.property(text),
            (false, false) => self.step(text),
            (false, true) => self.block(line),
        }
    }

    fn client(&mut self, text: &str) -> Result<(), String> {
        // A script may begin with a title.
        if let Some(name) = text.strip_prefix("[Client]") {
            let client = ClientPart {
                name: name.trim().to_owned(),
                jid: String::new(),
                password: String::new(),
            };
            self.scenario.clients.push(client);
        }
        Ok(())
    }

    fn property(&mut self, text: &str) -> Result<(), String> {
        let client = self
            .scenario
            .clients
            .last_mut()
            .ok_or("a property without a client")?;
        let (key, value) = text
            .split_once(':')
            .ok_or("a property is written key: value")?;
        match key.trim() {
            "jid" => client.jid = value.trim().to_owned(),
            "password" => client.password = value.trim().to_owned(),
            key => return Err(format!("unknown property {key:?}")),
        }
        Ok(())
    }

    fn step(&mut self, text: &str) -> Result<(), String> {
        const VERBS: [(&str, Action); 11] = [
            (" connects", Action::Connect),
            (
                " authenticates elsewhere",
                Action::Authenticate { elsewhere: true },
            ),
            (" authenticates", Action::Authenticate { elsewhere: false }),
            (" disconnects", Action::Disconnect),
            (" is cut off", Action::CutOff),
            (" sends:", Action::Send(String::new())),
            (
                " eventually receives:",
                Action::ReceiveEventually(String::new()),
            ),
            (" receives:", Action::Receive(String::new())),
            (" receives nothing", Action::ReceiveNothing),
            ("'s stream ends", Action::StreamEnds),
            ("' stream ends", Action::StreamEnds),
        ];
        let fits = |(verb, action): &(&str, Action)| {
            text.strip_suffix(verb)
                .map(|name| (name.to_owned(), action.clone()))
        };
        let (name, action) = VERBS.iter().find_map(fits).ok_or("no such step")?;
        let named = |client: &ClientPart| client.name == name;
        let client = self.scenario.clients.iter().position(named);
        let client = client.ok_or_else(|| format!("nobody is called {name:?}"))?;
        self.scenario.steps.push(Step {
            line: 0,
            client,
            action,
        });
        Ok(())
    }

    fn block(&mut self, line: &str) -> Result<(), String> {
        match self.scenario.steps.last_mut().map(|step| &mut step.action) {
            Some(Action::Send(xml) | Action::Receive(xml) | Action::ReceiveEventually(xml)) => {
                if !xml.is_empty() {
                    xml.push('\n');
                }
                xml.push_str(line.trim());
                Ok(())
            }
            _ => Err("XML belongs under sends or receives".to_owned()),
        }
    }

    fn finish(self, name: &str, line: usize) -> Result<Scenario, ParseError> {
        let error = |line, reason: String| ParseError {
            name: name.to_owned(),
            line,
            reason,
        };
        if let Some(client) = self
            .scenario
            .clients
            .iter()
            .find(|client| client.jid.is_empty())
        {
            return Err(error(line, format!("{} has no jid", client.name)));
        }
        for step in &self.scenario.steps {
            if let Action::Send(xml) | Action::Receive(xml) | Action::ReceiveEventually(xml) =
                &step.action
                && xml.is_empty()
            {
                return Err(error(step.line, "nothing stands under it".to_owned()));
            }
        }
        if self.scenario.steps.is_empty() {
            return Err(error(line, "nothing happens".to_owned()));
        }
        Ok(self.scenario)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str =
        "# Title\n\n[Client] Romeo\n\tjid: romeo@localhost\n\tpassword: p\n\n-----\n";

    #[test]
    fn a_script_is_read() {
        let text = format!(
            "{HEAD}\nRomeo connects\n\nRomeo sends:\n\t<message\n\t\tto='x'/>\n# why\nRomeo receives nothing\nRomeo's stream ends\nRomeo disconnects\nRomeo is cut off\nRomeo authenticates elsewhere\n"
        );
        let scenario = Scenario::parse("a", &text).expect("good");
        let actions: Vec<_> = scenario
            .steps
            .iter()
            .map(|step| (step.line, step.action.clone()))
            .collect();
        assert_eq!(
            actions,
            [
                (9, Action::Connect),
                (11, Action::Send("<message\nto='x'/>".into())),
                (15, Action::ReceiveNothing),
                (16, Action::StreamEnds),
                (17, Action::Disconnect),
                (18, Action::CutOff),
                (19, Action::Authenticate { elsewhere: true }),
            ]
        );
        assert_eq!(scenario.clients[0].jid, "romeo@localhost");
    }

    #[test]
    fn what_does_not_read_is_named_with_its_line() {
        let check = |body: &str, expect: &str| {
            let error = Scenario::parse("a", &format!("{HEAD}{body}")).expect_err(body);
            assert_eq!(error.to_string(), expect);
        };
        check("", "a:7: nothing happens");
        check("Juliet connects", "a:8: nobody is called \"Juliet\"");
        check("Romeo dances", "a:8: no such step");
        check("\t<message/>", "a:8: XML belongs under sends or receives");
        check(
            "Romeo connects\n\t<message/>",
            "a:9: XML belongs under sends or receives",
        );
        check(
            "Romeo sends:\nRomeo connects",
            "a:8: nothing stands under it",
        );
        let error = Scenario::parse("a", "[Client] Romeo\n\tcolour: red").expect_err("unknown");
        assert_eq!(error.to_string(), "a:2: unknown property \"colour\"");
        let error =
            Scenario::parse("a", "[Client] Romeo\n-----\nRomeo connects").expect_err("no jid");
        assert_eq!(error.to_string(), "a:3: Romeo has no jid");
    }
}
