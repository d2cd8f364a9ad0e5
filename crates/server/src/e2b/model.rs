//! What E2B's control plane says, as its SDKs read and write it. Unknown fields are ignored, as theirs are.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// The agent's protocol version: SDKs look at it to know what it can.
pub(crate) const ENVD_VERSION: &str = "0.6.13";

/// A sandbox to be.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct NewSandbox {
    #[serde(rename = "templateID")]
    pub(crate) template: String,
    pub(crate) timeout: Option<i64>,
    pub(crate) metadata: Option<BTreeMap<String, String>>,
    #[serde(rename = "envVars")]
    pub(crate) env: Option<BTreeMap<String, String>>,
    #[serde(rename = "autoPause")]
    pub(crate) auto_pause: Option<bool>,
    #[serde(rename = "autoPauseMemory")]
    pub(crate) auto_pause_memory: Option<bool>,
    #[serde(rename = "autoResume")]
    pub(crate) auto_resume: Option<AutoResume>,
    pub(crate) allow_internet_access: Option<bool>,
    pub(crate) network: Option<Network>,
}

/// Whether traffic wakes a paused sandbox.
#[derive(Debug, Default, Clone, Copy, Deserialize)]
pub(crate) struct AutoResume {
    #[serde(default)]
    pub(crate) enabled: bool,
}

/// What of a sandbox's network settings is looked at here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Network {
    #[serde(rename = "allowPublicTraffic")]
    pub(crate) allow_public_traffic: Option<bool>,
    #[serde(rename = "maskRequestHost")]
    pub(crate) mask_request_host: Option<String>,
}

/// How long, and how to wake.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Connect {
    pub(crate) timeout: Option<i64>,
    pub(crate) memory: Option<bool>,
}

/// A time in seconds.
#[derive(Debug, Deserialize)]
pub(crate) struct SetTimeout {
    pub(crate) timeout: i64,
}

/// A longer life.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Refresh {
    pub(crate) duration: Option<i64>,
}

/// How many copies, and how long they live.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Fork {
    pub(crate) timeout: Option<i64>,
    pub(crate) count: Option<u32>,
}

/// A snapshot to be.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct NewSnapshot {
    pub(crate) name: Option<String>,
}

/// How to pause.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Pause {
    pub(crate) memory: Option<bool>,
}

/// A sandbox as create and connect answer it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Made {
    #[serde(rename = "templateID")]
    pub(crate) template: String,
    #[serde(rename = "sandboxID")]
    pub(crate) id: String,
    #[serde(rename = "clientID")]
    pub(crate) client: &'static str,
    pub(crate) envd_version: &'static str,
    pub(crate) envd_access_token: String,
    pub(crate) traffic_access_token: Option<String>,
    pub(crate) domain: Option<String>,
}

/// A sandbox as lists and details show it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Shown {
    #[serde(rename = "templateID")]
    pub(crate) template: String,
    #[serde(rename = "sandboxID")]
    pub(crate) id: String,
    #[serde(rename = "clientID")]
    pub(crate) client: &'static str,
    pub(crate) started_at: String,
    pub(crate) end_at: String,
    pub(crate) envd_version: &'static str,
    pub(crate) cpu_count: u32,
    #[serde(rename = "memoryMB")]
    pub(crate) memory_mb: u64,
    #[serde(rename = "diskSizeMB")]
    pub(crate) disk_mb: u64,
    pub(crate) state: &'static str,
    pub(crate) metadata: BTreeMap<String, String>,
    #[serde(flatten)]
    pub(crate) detail: Option<Detail>,
}

/// What only the details show.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Detail {
    pub(crate) envd_access_token: String,
    pub(crate) allow_internet_access: bool,
    pub(crate) domain: Option<String>,
    pub(crate) lifecycle: Lifecycle,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pause_mode: Option<PauseMode>,
}

/// What becomes of a sandbox when its time is over.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Lifecycle {
    pub(crate) auto_resume: bool,
    pub(crate) on_timeout: OnTimeout,
    /// Whether a pause at that end keeps what runs and what is in memory, and not the files alone.
    #[serde(skip)]
    pub(crate) keeps_memory: bool,
}

/// What is kept of a sandbox that is paused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PauseMode {
    /// All of it, frozen.
    Full,
    /// Its files: what ran in it is gone.
    Filesystem,
}

/// The end of a sandbox's time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum OnTimeout {
    /// It is gone.
    Kill,
    /// It is paused.
    Pause,
}

/// One moment of a sandbox, measured from outside.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Sample {
    pub(crate) timestamp: String,
    pub(crate) timestamp_unix: i64,
    pub(crate) cpu_count: u32,
    pub(crate) cpu_used_pct: f64,
    pub(crate) mem_used: u64,
    pub(crate) mem_total: u64,
    pub(crate) mem_cache: u64,
    pub(crate) disk_used: u64,
    pub(crate) disk_total: u64,
}
