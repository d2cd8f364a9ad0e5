//! Up- and download of files.

use std::collections::BTreeMap;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Body;
use hyper::{Method, header};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};

use super::answer::GuestBody;
use super::rpc::refusal;
use super::{Client, ClientError};

/// A file that was written.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Uploaded {
    /// Its plain name.
    pub name: String,
    /// What it is: `file`.
    pub r#type: String,
    /// Its absolute path.
    pub path: String,
    /// What was said about it.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
}

/// A file's bytes as they come.
#[derive(Debug)]
pub struct Download {
    body: GuestBody,
    deadline: Instant,
    left: u64,
    max: u64,
}

impl Client {
    /// Writes a file, and the folders above it. `metadata` is kept with it.
    ///
    /// # Errors
    /// What the agent answers, and what can go wrong with a call.
    pub async fn upload(
        &self,
        path: &str,
        bytes: impl Into<Bytes>,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Uploaded, ClientError> {
        self.upload_from(path, Full::new(bytes.into()), metadata)
            .await
    }

    /// The same from a body that is sent as it comes.
    ///
    /// # Errors
    /// As [`Client::upload`].
    pub async fn upload_from<B>(
        &self,
        path: &str,
        body: B,
        metadata: &BTreeMap<String, String>,
    ) -> Result<Uploaded, ClientError>
    where
        B: Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let mut request = self
            .request(Method::POST, &self.file(path))
            .header(header::CONTENT_TYPE, "application/octet-stream");
        for (key, value) in metadata {
            request = request.header(format!("x-metadata-{key}"), value);
        }
        let request = request
            .body(body)
            .map_err(|error| ClientError::Request(error.to_string()))?;
        let mut answer = self.forward(request).await?;
        let deadline = Instant::now() + self.limits.unary;
        if answer.status != hyper::StatusCode::OK {
            return Err(refusal(answer.status, &mut answer.body, deadline).await);
        }
        let bytes = answer.body.whole(self.limits.unary_bytes, deadline).await?;
        match serde_json::from_slice::<[Uploaded; 1]>(&bytes) {
            Ok([uploaded]) => Ok(uploaded),
            Err(error) => Err(ClientError::Protocol(error.to_string())),
        }
    }

    /// Begins to read a file of at most `max` bytes.
    ///
    /// # Errors
    /// What the agent answers, and what can go wrong with a call.
    pub async fn download(&self, path: &str, max: u64) -> Result<Download, ClientError> {
        let request = self
            .request(Method::GET, &self.file(path))
            .body(Full::<Bytes>::default())
            .map_err(|error| ClientError::Request(error.to_string()))?;
        let mut answer = self.forward(request).await?;
        if answer.status != hyper::StatusCode::OK {
            let deadline = Instant::now() + self.limits.unary;
            return Err(refusal(answer.status, &mut answer.body, deadline).await);
        }
        Ok(Download {
            body: answer.body,
            deadline: Instant::now() + self.limits.transfer,
            left: max,
            max,
        })
    }

    fn file(&self, path: &str) -> String {
        let mut target = format!("/files?path={}", quoted(path));
        if let Some(user) = &self.user {
            target.push_str("&username=");
            target.push_str(&quoted(user));
        }
        target
    }
}

/// A text as a part of a query.
fn quoted(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

impl Download {
    /// The next bytes; none at the end.
    ///
    /// # Errors
    /// When the stream breaks, takes too long, or is longer than the caller said.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, ClientError> {
        let chunk = timeout_at(self.deadline, self.body.chunk()).await;
        let chunk = chunk.map_err(|_| ClientError::Late("finish the file"))??;
        let length = chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        self.left = self.left.checked_sub(length).ok_or(ClientError::TooMuch {
            what: "a file's bytes",
            limit: self.max,
        })?;
        Ok(chunk)
    }

    /// All of it.
    ///
    /// # Errors
    /// As [`Download::chunk`].
    pub async fn whole(mut self) -> Result<Vec<u8>, ClientError> {
        let mut all = Vec::new();
        while let Some(chunk) = self.chunk().await? {
            all.extend_from_slice(&chunk);
        }
        Ok(all)
    }
}

#[cfg(test)]
mod tests {
    use super::quoted;

    #[test]
    fn a_path_is_a_part_of_a_query_whatever_is_in_it() {
        assert_eq!(quoted("/a b/é&?#%+"), "/a%20b/%C3%A9%26%3F%23%25%2B");
        assert_eq!(quoted("a\r\nHost: x"), "a%0D%0AHost%3A%20x");
    }
}
