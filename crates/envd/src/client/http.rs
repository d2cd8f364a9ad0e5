//! The agent itself: whether it lives, what it was told, how its machine does.

use std::collections::BTreeMap;

use bytes::Bytes;
use http_body_util::Full;
use hyper::{Method, StatusCode, header};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::rpc::refusal;
use super::{Client, ClientError};

/// How the sandbox does, by its own word.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metrics {
    /// When, in seconds since 1970.
    pub ts: i64,
    /// Processors.
    pub cpu_count: u32,
    /// How busy they are, in percent of all of them.
    pub cpu_used_pct: f64,
    /// Memory, in bytes.
    pub mem_total: u64,
    /// Of which in use.
    pub mem_used: u64,
    /// Of which can be given back.
    pub mem_cache: u64,
    /// The total, in MiB.
    pub mem_total_mib: u64,
    /// What is in use, in MiB.
    pub mem_used_mib: u64,
    /// Bytes in use of the file system that the user's files are on.
    pub disk_used: u64,
    /// Bytes of it.
    pub disk_total: u64,
}

/// What the agent is told once: the global environment, the token, the default user.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Init {
    /// Environment variables of every process and context.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env_vars: Option<BTreeMap<String, String>>,
    /// The token that calls must carry from now on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_token: Option<String>,
    /// Who is meant where no user is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_user: Option<String>,
    /// Where processes begin where no folder is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_workdir: Option<String>,
}

impl Client {
    /// Whether the agent answers.
    ///
    /// # Errors
    /// When it cannot be reached or says something else.
    pub async fn health(&self) -> Result<(), ClientError> {
        self.http(Method::GET, "/health", Bytes::new(), 0)
            .await
            .map(drop)
    }

    /// Tells the agent what it is told once.
    ///
    /// # Errors
    /// What the agent answers, and what can go wrong with a call.
    pub async fn init(&self, init: &Init) -> Result<(), ClientError> {
        self.http(Method::POST, "/init", json(init)?, 0)
            .await
            .map(drop)
    }

    /// The environment variables of every process.
    ///
    /// # Errors
    /// What the agent answers, and what can go wrong with a call.
    pub async fn envs(&self) -> Result<BTreeMap<String, String>, ClientError> {
        self.get("/envs").await
    }

    /// How the sandbox does, by its own word.
    ///
    /// # Errors
    /// What the agent answers, and what can go wrong with a call.
    pub async fn metrics(&self) -> Result<Metrics, ClientError> {
        self.get("/metrics").await
    }

    async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, ClientError> {
        let max = self.limits.unary_bytes;
        let bytes = self.http(Method::GET, path, Bytes::new(), max).await?;
        parse(&bytes)
    }

    /// A call whose body and answer are JSON, or nothing.
    pub(super) async fn http(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        max: usize,
    ) -> Result<Bytes, ClientError> {
        let deadline = Instant::now() + self.limits.unary;
        let mut request = self.request(method, path);
        if !body.is_empty() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request
            .body(Full::new(body))
            .map_err(|error| ClientError::Request(error.to_string()))?;
        let mut answer = self.forward(request).await?;
        match answer.status {
            StatusCode::OK | StatusCode::NO_CONTENT => answer.body.whole(max, deadline).await,
            status => Err(refusal(status, &mut answer.body, deadline).await),
        }
    }
}

pub(super) fn json(value: &impl Serialize) -> Result<Bytes, ClientError> {
    let text = serde_json::to_vec(value);
    text.map(Bytes::from)
        .map_err(|error| ClientError::Request(error.to_string()))
}

pub(super) fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, ClientError> {
    serde_json::from_slice(bytes).map_err(|error| ClientError::Protocol(error.to_string()))
}
