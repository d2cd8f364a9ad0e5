//! How protobuf's types are written in JSON: bytes as base64, 64-bit numbers as texts, times as RFC 3339,
//! enumerations by name. What is read may also be in the forms that the mapping allows beside these.

use serde::de::{self, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Takes `null` for "not given", as the mapping says, at every depth.
pub(crate) fn without_nulls(value: serde_json::Value) -> serde_json::Value {
    use serde_json::Value;
    match value {
        Value::Object(fields) => fields
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name, without_nulls(value)))
            .collect(),
        Value::Array(items) => items.into_iter().map(without_nulls).collect(),
        other => other,
    }
}

/// A number that may also come as a text.
struct Number;

impl Visitor<'_> for Number {
    type Value = i64;

    fn expecting(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("a whole number")
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<i64, E> {
        Ok(value)
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<i64, E> {
        i64::try_from(value).map_err(|_| E::invalid_value(Unexpected::Unsigned(value), &self))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<i64, E> {
        value
            .parse()
            .map_err(|_| E::invalid_value(Unexpected::Str(value), &self))
    }
}

/// A `uint32` or `sint32`, which is written as a number.
pub(crate) mod number {
    use super::*;

    pub(crate) fn serialize<S: Serializer, T: Copy + Into<i64>>(
        value: &T,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_i64((*value).into())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>, T: TryFrom<i64>>(
        deserializer: D,
    ) -> Result<T, D::Error> {
        let value = deserializer.deserialize_any(Number)?;
        T::try_from(value)
            .map_err(|_| de::Error::invalid_value(Unexpected::Signed(value), &"a 32-bit number"))
    }
}

/// The same where it may be absent.
pub(crate) mod optional_number {
    use super::*;

    pub(crate) fn serialize<S: Serializer, T: Copy + Into<i64>>(
        value: &Option<T>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        value.map(Into::into).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>, T: TryFrom<i64>>(
        deserializer: D,
    ) -> Result<Option<T>, D::Error> {
        number::deserialize(deserializer).map(Some)
    }
}

/// An `int64`, which is written as a text.
pub(crate) mod text_number {
    use super::*;

    pub(crate) fn serialize<S: Serializer>(value: &i64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<i64, D::Error> {
        d.deserialize_any(Number)
    }
}

/// Bytes, as base64.
pub(crate) mod base64 {
    use super::*;
    use ::base64::Engine as _;
    use ::base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
    use ::base64::engine::{DecodePaddingMode, general_purpose::URL_SAFE};

    pub(crate) fn serialize<S: Serializer>(
        value: &Option<Vec<u8>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let text = value.as_ref().map(|bytes| STANDARD.encode(bytes));
        text.serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Vec<u8>>, D::Error> {
        const LOOSE: GeneralPurposeConfig = GeneralPurposeConfig::new()
            .with_decode_padding_mode(DecodePaddingMode::Indifferent)
            .with_decode_allow_trailing_bits(true);
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        let loose = GeneralPurpose::new(&::base64::alphabet::STANDARD, LOOSE);
        loose
            .decode(text.as_bytes())
            .or_else(|_| URL_SAFE.decode(text.as_bytes()))
            .map(Some)
            .map_err(|error| de::Error::custom(format!("not base64: {error}")))
    }
}

/// An enumeration, by name; a number is taken too.
pub(crate) mod enumeration {
    use super::*;

    /// An enumeration of the protocol.
    pub(crate) trait Named: Sized + TryFrom<i32> + Into<i32> {
        fn name(&self) -> &'static str;
        fn of_name(name: &str) -> Option<Self>;
    }

    pub(crate) fn serialize<S: Serializer, T: Named>(
        value: &i32,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        match T::try_from(*value) {
            Ok(known) => serializer.serialize_str(known.name()),
            Err(_) => serializer.serialize_i32(*value),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>, T: Named>(
        deserializer: D,
    ) -> Result<i32, D::Error> {
        match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::String(name) => T::of_name(&name)
                .map(Into::into)
                .ok_or_else(|| de::Error::custom(format!("{name:?} is not one of the names"))),
            serde_json::Value::Number(number) => number
                .as_i64()
                .and_then(|number| i32::try_from(number).ok())
                .ok_or_else(|| de::Error::custom(format!("{number} is not one of the numbers"))),
            _ => Err(de::Error::custom("a name was expected")),
        }
    }
}

/// Whether a field has its default value, and so is not written.
pub(crate) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
