//! Receipts of runs: what was run on what behind which walls and how it ended, signed by the user's key.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use casemate_engine::sha256_hex;
use casemate_model::job::Job;
use casemate_model::outcome::Outcome;
use casemate_server::Sign;
use casemate_server::wire::{self, Ran};
use serde_json::{Value, json};

use crate::json;
use crate::sign::{Key, data_root};

/// The key signs for the server too.
impl Sign for Key {
    fn public_key(&self) -> String {
        self.public().text()
    }

    fn sign(&self, payload_type: &str, payload: &[u8]) -> String {
        let envelope = Self::sign(self, payload_type, payload);
        serde_json::to_string(&envelope).unwrap_or_default()
    }
}

/// What signs a server's receipts: the user's own key, or one in the server's folder where the user has no other.
///
/// # Errors
/// When the key is not to be trusted or cannot be made.
pub(crate) fn signer(data: &Path) -> anyhow::Result<Arc<dyn Sign>> {
    let folder = data_root().unwrap_or_else(|_| data.to_owned());
    Ok(Arc::new(Key::open_or_make(&folder)?))
}

/// A receipt to be.
pub(crate) struct Draft {
    key: Key,
    about: Value,
    created_ms: i64,
}

impl Draft {
    /// Of a job that was not run yet: a key that is not to be trusted is found out before it is.
    ///
    /// # Errors
    /// When there is no such key and none can be made.
    pub(crate) fn of(job: &Job) -> anyhow::Result<Self> {
        let inputs = job.inputs.iter().map(|input| {
            json!({
                "path": input.path,
                "sha256": sha256_hex(&input.bytes),
                "size_bytes": input.bytes.len(),
            })
        });
        let about = json!({
            "policy": job.policy.name,
            "program": {"name": job.program.name, "sha256": sha256_hex(&job.program.source)},
            "inputs": inputs.collect::<Vec<_>>(),
        });
        Ok(Self {
            key: Key::open_or_make(&data_root()?)?,
            about,
            created_ms: now_ms(),
        })
    }

    /// Writes the signed receipt of how it ended.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn write(&self, outcome: &Outcome, to: &Path) -> anyhow::Result<()> {
        let ran = Ran {
            about: &self.about,
            created_ms: self.created_ms,
            ended_ms: now_ms(),
        };
        let receipt = wire::receipt(ran, &json::outcome(outcome, None)).to_string();
        let envelope = self.key.sign(wire::RECEIPT_TYPE, receipt.as_bytes());
        let text = serde_json::to_string_pretty(&envelope)?;
        std::fs::write(to, text).with_context(|| format!("writing {}", to.display()))
    }
}

fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
