//! Message attributes by name and type.

use std::fmt;

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{DeserializeOwned, Deserializer, Error as _, Expected, IntoDeserializer, Unexpected, Visitor};
use serde::forward_to_deserialize_any;

use super::FromDelivery;
use crate::handler::{Context, IntoFailure};
use crate::message::{Attribute, AttributeValue};
use crate::outcome::{Failure, Reason};

/// Message attributes, each read as the field of `T` that has its name asks: text, numbers, `bool`s (`true` and `false`),
/// enums by the names of their variants, `Vec<u8>` for `Binary`, `Option<_>` for one that may be missing. Attributes without
/// a field are left alone. What cannot be read is dead-lettered for the reason `malformed`, and the error names the attribute.
///
/// ```
/// use redrive::{Failure, extract::Attrs};
///
/// #[derive(serde::Deserialize)]
/// struct Meta {
///     tenant: String,
///     priority: Option<u8>,
/// }
///
/// async fn handle(Attrs(meta): Attrs<Meta>) -> Result<(), Failure> {
///     println!("{} at {:?}", meta.tenant, meta.priority);
///     Ok(())
/// }
/// # let _ = redrive::handler::Handler::into_service(handle, ());
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Attrs<T>(pub T);

impl<S: Sync, T: DeserializeOwned + Send + 'static> FromDelivery<S> for Attrs<T> {
    type Rejection = AttrsRejection;

    async fn from_delivery(context: &Context, _: &S) -> Result<Self, AttrsRejection> {
        let attributes = context.message().attributes.iter();
        let named = attributes.map(|(name, attribute)| (name.as_str(), Named { name, attribute }));
        T::deserialize(MapDeserializer::new(named)).map(Self)
    }
}

/// Why message attributes cannot be read as [`Attrs`]. All are rejects for the reason `malformed`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttrsRejection {
    /// An attribute is not there.
    #[error("the message has no attribute `{name}`; send it, or make the field an `Option`")]
    Missing {
        /// The attribute.
        name: String,
    },
    /// An attribute is there, but not what is expected.
    #[error("the message attribute `{name}` cannot be read: {detail}")]
    Invalid {
        /// The attribute.
        name: String,
        /// What is wrong.
        detail: String,
    },
    /// The attributes together are not what is expected.
    #[error("the message's attributes cannot be read: {detail}")]
    Other {
        /// What is wrong.
        detail: String,
    },
}

impl AttrsRejection {
    fn of(self, name: &str) -> Self {
        match self {
            Self::Other { detail } => Self::Invalid {
                name: name.to_owned(),
                detail,
            },
            known => known,
        }
    }
}

impl IntoFailure for AttrsRejection {
    fn into_failure(self) -> Failure {
        Failure::reject(self).for_reason(Reason::Malformed)
    }
}

impl serde::de::Error for AttrsRejection {
    fn custom<T: fmt::Display>(detail: T) -> Self {
        Self::Other {
            detail: detail.to_string(),
        }
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::custom(format_args!("it is {}, but {expected} is expected", kind(found)))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::invalid_type(found, expected)
    }

    fn unknown_variant(_: &str, expected: &'static [&'static str]) -> Self {
        let names: Vec<String> = expected.iter().map(|name| format!("`{name}`")).collect();
        Self::custom(format_args!("it is none of {}", names.join(", ")))
    }

    fn missing_field(name: &'static str) -> Self {
        Self::Missing { name: name.to_owned() }
    }
}

/// What was found, without its value: attributes stay out of errors and logs.
fn kind(found: Unexpected<'_>) -> &'static str {
    match found {
        Unexpected::Bytes(_) | Unexpected::Seq => "binary",
        Unexpected::Str(_) => "a text",
        Unexpected::Unsigned(_) | Unexpected::Signed(_) | Unexpected::Float(_) => "a number",
        _ => "something else",
    }
}

#[derive(Clone, Copy)]
struct Named<'a> {
    name: &'a str,
    attribute: &'a Attribute,
}

impl<'a> Named<'a> {
    fn text(self, expected: &str) -> Result<&'a str, AttrsRejection> {
        self.attribute.as_str().ok_or_else(|| {
            AttrsRejection::custom(format_args!(
                "it is `{}`, but {expected} is expected",
                self.attribute.data_type
            ))
            .of(self.name)
        })
    }

    fn parsed<T: std::str::FromStr>(self) -> Result<T, AttrsRejection> {
        let expected = match std::any::type_name::<T>() {
            "bool" => "`true` or `false`".to_owned(),
            "char" => "a single character".to_owned(),
            number => format!("a number of type `{number}`"),
        };
        self.text(&expected)?
            .parse()
            .map_err(|_| AttrsRejection::custom(format_args!("it is not {expected}")).of(self.name))
    }
}

impl<'a> IntoDeserializer<'_, AttrsRejection> for Named<'a> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

macro_rules! parsed {
    ($($deserialize:ident => $visit:ident,)*) => {$(
        fn $deserialize<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, AttrsRejection> {
            visitor.$visit(self.parsed()?).map_err(|error: AttrsRejection| error.of(self.name))
        }
    )*};
}

impl<'de> Deserializer<'de> for Named<'_> {
    type Error = AttrsRejection;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, AttrsRejection> {
        match &self.attribute.value {
            AttributeValue::Text(text) => visitor.visit_str(text),
            AttributeValue::Binary(bytes) => visitor.visit_bytes(bytes),
        }
        .map_err(|error: AttrsRejection| error.of(self.name))
    }

    parsed! {
        deserialize_bool => visit_bool,
        deserialize_char => visit_char,
        deserialize_i8 => visit_i8,
        deserialize_i16 => visit_i16,
        deserialize_i32 => visit_i32,
        deserialize_i64 => visit_i64,
        deserialize_i128 => visit_i128,
        deserialize_u8 => visit_u8,
        deserialize_u16 => visit_u16,
        deserialize_u32 => visit_u32,
        deserialize_u64 => visit_u64,
        deserialize_u128 => visit_u128,
        deserialize_f32 => visit_f32,
        deserialize_f64 => visit_f64,
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, AttrsRejection> {
        visitor
            .visit_str(self.text("a text")?)
            .map_err(|error: AttrsRejection| error.of(self.name))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, AttrsRejection> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, AttrsRejection> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, AttrsRejection> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, AttrsRejection> {
        let variant: serde::de::value::StrDeserializer<'_, AttrsRejection> = self.text("a text")?.into_deserializer();
        visitor.visit_enum(variant).map_err(|error| error.of(self.name))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, AttrsRejection> {
        match &self.attribute.value {
            AttributeValue::Binary(bytes) => visitor
                .visit_seq(SeqDeserializer::new(bytes.iter().copied()))
                .map_err(|error: AttrsRejection| error.of(self.name)),
            AttributeValue::Text(_) => self.deserialize_any(visitor),
        }
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, AttrsRejection> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bytes byte_buf unit unit_struct tuple tuple_struct map struct identifier
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde::Deserialize;

    use super::*;
    use crate::handler::testing::context_of;
    use crate::message::Message;

    #[derive(Debug, PartialEq, Deserialize)]
    struct Meta {
        tenant: Tenant,
        priority: Option<u8>,
        rate: Option<f64>,
        urgent: Option<bool>,
        colour: Option<Colour>,
        blob: Option<Vec<u8>>,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Tenant(String);

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Colour {
        Red,
    }

    async fn read<T: DeserializeOwned + Send + 'static>(attributes: &[(&str, Attribute)]) -> Result<T, AttrsRejection> {
        let mut message = Message::new("m", "{}");
        for (name, attribute) in attributes {
            message.attributes.insert((*name).to_owned(), attribute.clone());
        }
        Attrs::<T>::from_delivery(&context_of(message), &Arc::new(()))
            .await
            .map(|Attrs(value)| value)
    }

    fn tenant() -> (&'static str, Attribute) {
        ("tenant", Attribute::string("acme"))
    }

    async fn error(name: &str, attribute: Attribute) -> String {
        read::<Meta>(&[tenant(), (name, attribute)])
            .await
            .unwrap_err()
            .to_string()
    }

    #[tokio::test]
    async fn each_attribute_is_read_as_its_field_asks() {
        let meta: Meta = read(&[
            tenant(),
            ("priority", Attribute::number(7)),
            ("rate", Attribute::string("0.5")),
            ("urgent", Attribute::string("true")),
            ("colour", Attribute::string("red")),
            ("blob", Attribute::binary(vec![0xff, 0])),
            ("other", Attribute::binary(vec![0xff])),
        ])
        .await
        .unwrap();
        assert_eq!(
            meta,
            Meta {
                tenant: Tenant("acme".into()),
                priority: Some(7),
                rate: Some(0.5),
                urgent: Some(true),
                colour: Some(Colour::Red),
                blob: Some(vec![0xff, 0]),
            }
        );
    }

    #[tokio::test]
    async fn a_binary_attribute_that_is_read_as_text_is_named() {
        for bytes in [&b"\xff\xfe"[..], b"acme"] {
            let failed = read::<Meta>(&[("tenant", Attribute::binary(bytes))]).await.unwrap_err();
            assert_eq!(
                failed.to_string(),
                "the message attribute `tenant` cannot be read: it is `Binary`, but a text is expected"
            );
            assert_eq!(failed.into_failure().reason(), Some(&Reason::Malformed));
        }
        assert!(
            error("priority", Attribute::binary(b"\xff".as_slice()))
                .await
                .contains("`priority`")
        );
    }

    #[tokio::test]
    async fn what_cannot_be_read_names_the_attribute_but_not_the_value() {
        assert_eq!(
            error("priority", Attribute::string("secret")).await,
            "the message attribute `priority` cannot be read: it is not a number of type `u8`"
        );
        assert!(error("priority", Attribute::number(256)).await.contains("u8"));
        assert!(
            error("urgent", Attribute::string("yes"))
                .await
                .contains("`true` or `false`")
        );
        assert_eq!(
            error("colour", Attribute::string("blue")).await,
            "the message attribute `colour` cannot be read: it is none of `red`"
        );
        assert_eq!(
            error("blob", Attribute::string("secret")).await,
            "the message attribute `blob` cannot be read: it is a text, but a sequence is expected"
        );
    }

    #[tokio::test]
    async fn a_missing_attribute_is_named() {
        assert_eq!(
            read::<Meta>(&[]).await.unwrap_err(),
            AttrsRejection::Missing { name: "tenant".into() }
        );
    }
}
