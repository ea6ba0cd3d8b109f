//! Data forms (XEP-0004) with a form type (XEP-0068).

use crate::jid::Jid;
use crate::ns;
use crate::payload::{PayloadError, boolean, required};
use crate::scan::Element;
use crate::stanza_error::Condition;
use crate::wire_names::wire_names;
use crate::write::XmlWriter;

wire_names! {
    /// What a form is for (§3.1).
    FormType {
        /// A form to fill in.
        Form = "form",
        /// A form that has been filled in.
        Submit = "submit",
        /// A form that will not be filled in.
        Cancel = "cancel",
        /// Results.
        Result = "result",
    }
}

wire_names! {
    /// What a field holds (§3.3).
    FieldType {
        /// Yes or no.
        Boolean = "boolean",
        /// A text to show.
        Fixed = "fixed",
        /// Not shown, sent back as it is.
        Hidden = "hidden",
        /// Addresses.
        JidMulti = "jid-multi",
        /// An address.
        JidSingle = "jid-single",
        /// Some of the options.
        ListMulti = "list-multi",
        /// One of the options.
        ListSingle = "list-single",
        /// Lines of text.
        TextMulti = "text-multi",
        /// A line of text that is not shown.
        TextPrivate = "text-private",
        /// A line of text.
        TextSingle = "text-single",
    }
}

/// One field. Its Debug output leaves the values out: they may be passwords.
#[derive(Clone, PartialEq, Eq)]
pub struct Field {
    /// Its name; only `fixed` fields have none.
    pub var: String,
    /// What it holds; a submitted form need not say.
    pub kind: Option<FieldType>,
    /// What people call it.
    pub label: Option<String>,
    /// The form cannot be submitted without it.
    pub required: bool,
    /// Its values.
    pub values: Vec<String>,
    /// What may be chosen: (label, value).
    pub options: Vec<(Option<String>, String)>,
}

impl std::fmt::Debug for Field {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Field({}, {} values)", self.var, self.values.len())
    }
}

impl Field {
    /// A field with one value.
    pub fn new(kind: FieldType, var: impl Into<String>, value: impl Into<String>) -> Self {
        Self::multi(kind, var, vec![value.into()])
    }

    /// A field with any number of values.
    pub fn multi(kind: FieldType, var: impl Into<String>, values: Vec<String>) -> Self {
        Self {
            var: var.into(),
            kind: Some(kind),
            label: None,
            required: false,
            values,
            options: Vec::new(),
        }
    }

    /// A yes-or-no field.
    pub fn boolean(var: impl Into<String>, value: bool) -> Self {
        Self::new(FieldType::Boolean, var, if value { "1" } else { "0" })
    }

    /// Adds what people call it.
    pub fn with_label(mut self, label: impl Into<String>) -> Self {
        self.label = Some(label.into());
        self
    }

    /// Adds what may be chosen: (label, value).
    pub fn with_options<'a>(
        mut self,
        options: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Self {
        let owned = options
            .into_iter()
            .map(|(label, value)| (Some(label.to_owned()), value.to_owned()));
        self.options = owned.collect();
        self
    }

    /// The first value.
    pub fn value(&self) -> Option<&str> {
        self.values.first().map(String::as_str)
    }

    /// The value as yes or no.
    pub fn as_bool(&self) -> Result<bool, PayloadError> {
        let value = self.value().and_then(boolean);
        value.ok_or(PayloadError::new(
            Condition::NotAcceptable,
            "a field is neither true nor false",
        ))
    }

    /// The value as an address.
    pub fn as_jid(&self) -> Result<Jid, PayloadError> {
        let jid = self.value().and_then(|value| Jid::parse(value).ok());
        jid.ok_or(PayloadError::new(
            Condition::JidMalformed,
            "a field is no address",
        ))
    }

    fn parse(field: Element<'_>) -> Result<Self, PayloadError> {
        let kind = field
            .attr("type")
            .and_then(|kind| FieldType::from_name(&kind));
        let var = match (field.attr("var"), kind) {
            (Some(var), _) => var.into_owned(),
            (None, Some(FieldType::Fixed)) => String::new(),
            (None, _) => return Err(PayloadError::malformed("a field has no name")),
        };
        let named = |name: &'static str| move |child: &Element<'_>| child.is(name, ns::DATA_FORM);
        let text = |element: Element<'_>| element.text().into_owned();
        let option = |option: Element<'_>| {
            let value = option
                .child("value", ns::DATA_FORM)
                .map(text)
                .unwrap_or_default();
            (
                option.attr("label").map(std::borrow::Cow::into_owned),
                value,
            )
        };
        Ok(Self {
            var,
            kind,
            label: field.attr("label").map(std::borrow::Cow::into_owned),
            required: field.child("required", ns::DATA_FORM).is_some(),
            values: field.children().filter(named("value")).map(text).collect(),
            options: field
                .children()
                .filter(named("option"))
                .map(option)
                .collect(),
        })
    }

    fn write(&self, writer: &mut XmlWriter) {
        writer.start("field");
        writer.attr_opt("type", self.kind.map(FieldType::name));
        writer.attr_opt("var", (!self.var.is_empty()).then_some(self.var.as_str()));
        writer.attr_opt("label", self.label.as_deref());
        if self.required {
            writer.start("required").end();
        }
        for value in &self.values {
            writer.leaf("value", value);
        }
        for (label, value) in &self.options {
            writer
                .start("option")
                .attr_opt("label", label.as_deref())
                .leaf("value", value)
                .end();
        }
        writer.end();
    }
}

/// A form, filled in or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataForm {
    /// What it is for.
    pub kind: FormType,
    /// Its title.
    pub title: Option<String>,
    /// Instructions for people.
    pub instructions: Option<String>,
    /// Its fields, `FORM_TYPE` included.
    pub fields: Vec<Field>,
}

impl DataForm {
    /// A form with nothing but its form type.
    pub fn new(kind: FormType, form_type: &str) -> Self {
        let mut hidden = Field::new(FieldType::Hidden, "FORM_TYPE", form_type);
        if kind == FormType::Submit {
            hidden.kind = None;
        }
        Self {
            kind,
            title: None,
            instructions: None,
            fields: vec![hidden],
        }
    }

    /// Adds a field.
    pub fn with(mut self, field: Field) -> Self {
        self.fields.push(field);
        self
    }

    /// Which vocabulary the fields come from (XEP-0068).
    pub fn form_type(&self) -> Option<&str> {
        self.field("FORM_TYPE").and_then(Field::value)
    }

    /// The field of that name.
    pub fn field(&self, var: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.var == var)
    }

    /// Fails unless the form is a submission of that vocabulary.
    pub fn expect_submission(&self, form_type: &str) -> Result<(), PayloadError> {
        match (self.kind, self.form_type()) {
            (FormType::Submit, Some(found)) if found == form_type => Ok(()),
            _ => Err(PayloadError::malformed("the form is not the one expected")),
        }
    }

    /// Reads `<x xmlns='jabber:x:data'/>`.
    pub fn parse(form: Element<'_>) -> Result<Self, PayloadError> {
        let kind = required(form, "type", "a form has a type")?;
        let kind = FormType::from_name(&kind)
            .ok_or(PayloadError::malformed("the type of a form is unknown"))?;
        let text = |name: &str| {
            form.child(name, ns::DATA_FORM)
                .map(|child| child.text().into_owned())
        };
        let fields = form
            .children()
            .filter(|child| child.is("field", ns::DATA_FORM));
        Ok(Self {
            kind,
            title: text("title"),
            instructions: text("instructions"),
            fields: fields.map(Field::parse).collect::<Result<_, _>>()?,
        })
    }

    /// Reads the form inside a query, if there is one.
    pub fn of_query(query: Element<'_>) -> Result<Option<Self>, PayloadError> {
        query.child("x", ns::DATA_FORM).map(Self::parse).transpose()
    }

    /// Writes `<x xmlns='jabber:x:data'/>`.
    pub fn write(&self, writer: &mut XmlWriter) {
        writer
            .start_ns("x", ns::DATA_FORM)
            .attr("type", self.kind.name());
        if let Some(title) = &self.title {
            writer.leaf("title", title);
        }
        if let Some(instructions) = &self.instructions {
            writer.leaf("instructions", instructions);
        }
        for field in &self.fields {
            field.write(writer);
        }
        writer.end();
    }
}
