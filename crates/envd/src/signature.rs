//! Signed file URLs: who may read or write one path without a token.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use sha2::{Digest, Sha256};

/// What a signed URL allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// `GET`.
    Read,
    /// `POST`.
    Write,
}

impl Operation {
    const fn word(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
        }
    }
}

/// What is signed: the query of a URL, decoded.
#[derive(Debug, Clone, Copy)]
pub struct Signed<'a> {
    /// The path exactly as in the query; it may be empty.
    pub path: &'a str,
    /// What may be done.
    pub operation: Operation,
    /// The user; empty where the query has none.
    pub username: &'a str,
    /// When it ends, in seconds since 1970, as written in the query.
    pub expiration: Option<&'a str>,
}

impl Signed<'_> {
    /// The signature with this sandbox's token.
    #[must_use]
    pub fn sign(&self, token: &str) -> String {
        let Self {
            path,
            operation,
            username,
            expiration,
        } = self;
        let mut text = format!("{path}:{}:{username}:{token}", operation.word());
        if let Some(expiration) = expiration {
            text.push(':');
            text.push_str(expiration);
        }
        format!("v1_{}", STANDARD_NO_PAD.encode(Sha256::digest(text)))
    }

    /// Whether this is the signature with this token. How long it takes does not tell where it differs.
    #[must_use]
    pub fn matches(&self, token: &str, signature: &str) -> bool {
        same(&self.sign(token), signature)
    }

    /// Whether its time is over at this moment, in seconds since 1970. What is no number never began.
    #[must_use]
    pub fn is_expired(&self, now: i64) -> bool {
        let lasts = |text: &str| text.parse::<i64>().is_ok_and(|end| end >= now);
        self.expiration.is_some_and(|text| !lasts(text))
    }
}

/// Compares two secrets by their digests, so that the time it takes says nothing about either.
#[must_use]
pub fn same(one: &str, other: &str) -> bool {
    let pairs = Sha256::digest(one).into_iter().zip(Sha256::digest(other));
    pairs.fold(0, |differs, (a, b)| differs | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    const TOKEN: &str = "0tQG31xiMp0IOQfaz9dcwi72L1CPo8e0";
    const HELLO: Signed<'_> = Signed {
        path: "hello.txt",
        operation: Operation::Read,
        username: "user",
        expiration: None,
    };

    #[test]
    fn the_signature_is_the_one_that_sdks_compute() {
        let known = "v1_gUtH/s9YCJWgCizjfUxuWfhFE4QSydOWEIIvfLwDr6E";
        assert_eq!(HELLO.sign(TOKEN), known);
        assert!(HELLO.matches(TOKEN, known));
    }

    #[test]
    fn another_path_user_operation_token_or_end_is_another_signature() {
        let known = HELLO.sign(TOKEN);
        let others = [
            Signed {
                path: "hello",
                ..HELLO
            },
            Signed {
                username: "",
                ..HELLO
            },
            Signed {
                operation: Operation::Write,
                ..HELLO
            },
            Signed {
                expiration: Some("1"),
                ..HELLO
            },
        ];
        assert!(others.iter().all(|signed| !signed.matches(TOKEN, &known)));
        assert!(!HELLO.matches("other", &known));
        assert!(!HELLO.matches(TOKEN, ""));
    }

    #[test]
    fn an_end_that_has_passed_or_is_no_number_is_over() {
        let at = |expiration| Signed {
            expiration,
            ..HELLO
        };
        assert!(!at(None).is_expired(10));
        assert!(!at(Some("10")).is_expired(10));
        assert!(at(Some("9")).is_expired(10));
        assert!(at(Some("-120")).is_expired(10));
        assert!(at(Some("soon")).is_expired(10));
    }
}
