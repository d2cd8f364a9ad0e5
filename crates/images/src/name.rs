//! Names of images.

use std::fmt;

use casemate_model::job::ImageChoice;
use serde::{Deserialize, Serialize};

use crate::ImageError;

/// The name of an image: small letters, digits, `-`, `_` and `.`, at most 64, beginning with a letter or
/// a digit. It is a folder's name too, and needs no quoting anywhere.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ImageName(String);

impl ImageName {
    /// Checks a name.
    ///
    /// # Errors
    /// When it is not one, or stands for the machine's own system.
    pub fn new(name: &str) -> Result<Self, ImageError> {
        let bad = |reason| {
            Err(ImageError::Name {
                name: name.to_owned(),
                reason,
            })
        };
        let first = name.bytes().next();
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        if name.len() > 64 || !first.is_some_and(plain) {
            return bad("a name has 1 to 64 characters and begins with a small letter or a digit");
        }
        if !name
            .bytes()
            .all(|byte| plain(byte) || b"-_.".contains(&byte))
        {
            return bad("a name is small letters, digits, `-`, `_` and `.`");
        }
        if name == ImageChoice::HOST {
            return bad("it stands for the machine's own system");
        }
        Ok(Self(name.to_owned()))
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for ImageName {
    type Error = ImageError;

    fn try_from(name: String) -> Result<Self, ImageError> {
        Self::new(&name)
    }
}

impl From<ImageName> for String {
    fn from(name: ImageName) -> Self {
        name.0
    }
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_plain() {
        for name in ["a", "python-data", "3.12-slim", "a_b"] {
            assert_eq!(ImageName::new(name).unwrap().as_str(), name);
        }
        let long = "x".repeat(65);
        for name in [
            "", "..", ".a", "-a", "a/b", "A", "ä", "a b", "a\n", "host", &long,
        ] {
            assert!(ImageName::new(name).is_err(), "{name}");
        }
        assert!(serde_json::from_str::<ImageName>(r#""../x""#).is_err());
    }
}
