//! Limits: a value or the word `Unlimited`, finite by default.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::unit::{ByteSize, millis, parse_duration, show_duration};

/// A ceiling: a value, or `Unlimited` written out in full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit<T> {
    /// At most this much.
    At(T),
    /// No ceiling, by explicit choice.
    Unlimited,
}

impl<T: Copy> Limit<T> {
    /// The value, or `unlimited` where there is no ceiling.
    pub fn or(self, unlimited: T) -> T {
        match self {
            Self::At(value) => value,
            Self::Unlimited => unlimited,
        }
    }
}

impl<T: Copy + Ord> Limit<T> {
    /// The lower of two ceilings.
    #[must_use]
    pub fn least(self, other: Self) -> Self {
        match (self, other) {
            (Self::At(a), Self::At(b)) => Self::At(a.min(b)),
            (Self::At(value), Self::Unlimited) | (Self::Unlimited, Self::At(value)) => {
                Self::At(value)
            }
            (Self::Unlimited, Self::Unlimited) => Self::Unlimited,
        }
    }
}

impl<T: Serialize> Serialize for Limit<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::At(value) => value.serialize(serializer),
            Self::Unlimited => serializer.serialize_str("unlimited"),
        }
    }
}

/// A value that can be read from a number or from a text with its unit.
trait FromText: Sized {
    fn from_number(number: u64) -> Result<Self, String>;
    fn from_text(text: &str) -> Result<Self, String>;
}

impl FromText for ByteSize {
    fn from_number(number: u64) -> Result<Self, String> {
        Ok(Self(number))
    }
    fn from_text(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|error: crate::unit::UnitError| error.to_string())
    }
}

impl FromText for u64 {
    fn from_number(number: u64) -> Result<Self, String> {
        Ok(number)
    }
    fn from_text(text: &str) -> Result<Self, String> {
        text.parse()
            .map_err(|_| format!("{text:?} is not a whole number"))
    }
}

impl FromText for Millis {
    fn from_number(number: u64) -> Result<Self, String> {
        Ok(Self(Duration::from_millis(number)))
    }
    fn from_text(text: &str) -> Result<Self, String> {
        parse_duration(text)
            .map(Self)
            .map_err(|error| error.to_string())
    }
}

impl<'de, T: FromText> Deserialize<'de> for Limit<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Number(u64),
            Text(String),
        }
        let value = match Form::deserialize(deserializer)? {
            Form::Number(number) => T::from_number(number),
            Form::Text(text) if text == "unlimited" => return Ok(Self::Unlimited),
            Form::Text(text) => T::from_text(&text),
        };
        value.map(Self::At).map_err(serde::de::Error::custom)
    }
}

/// A duration that is whole milliseconds in JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Millis(#[serde(with = "millis")] pub Duration);

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&show_duration(self.0))
    }
}

/// Which limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum LimitKind {
    /// Memory, in bytes.
    Memory,
    /// Processor time, in milliseconds.
    CpuTime,
    /// Elapsed time, in milliseconds.
    WallTime,
    /// Bytes written to the guest's file system.
    DiskBytes,
    /// Files and folders created in the guest's file system.
    DiskFiles,
    /// Bytes written to one output stream.
    OutputBytes,
    /// Descriptors open at once.
    OpenFiles,
    /// Files handed back.
    ArtifactCount,
    /// Bytes handed back in files.
    ArtifactBytes,
    /// Bytes handed back as displayed results.
    ResultBytes,
    /// Processes and threads.
    Tasks,
}

impl LimitKind {
    /// The flag of `casemate run` that moves this limit.
    pub fn flag(self) -> &'static str {
        match self {
            Self::Memory => "--memory",
            Self::CpuTime => "--cpu-time",
            Self::WallTime => "--timeout",
            Self::DiskBytes => "--tmp-size",
            Self::DiskFiles => "--tmp-files",
            Self::OutputBytes => "--output-size",
            Self::OpenFiles => "--open-files",
            Self::ArtifactCount => "--artifacts",
            Self::ArtifactBytes => "--artifact-size",
            Self::ResultBytes => "--result-size",
            Self::Tasks => "--pids",
        }
    }

    /// A number of this limit's unit, for people.
    pub fn show(self, amount: u64) -> String {
        match self {
            Self::Memory
            | Self::DiskBytes
            | Self::OutputBytes
            | Self::ArtifactBytes
            | Self::ResultBytes => ByteSize(amount).to_string(),
            Self::CpuTime | Self::WallTime => show_duration(Duration::from_millis(amount)),
            Self::DiskFiles | Self::OpenFiles | Self::ArtifactCount => format!("{amount} files"),
            Self::Tasks => format!("{amount} tasks"),
        }
    }

    /// The limit's name, for people.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::CpuTime => "CPU time",
            Self::WallTime => "wall time",
            Self::DiskBytes => "bytes in /tmp and the working folder",
            Self::DiskFiles => "files in /tmp and the working folder",
            Self::OutputBytes => "output of one stream",
            Self::OpenFiles => "open files",
            Self::ArtifactCount => "number of artifacts",
            Self::ArtifactBytes => "bytes of artifacts",
            Self::ResultBytes => "bytes of displayed results",
            Self::Tasks => "tasks",
        }
    }

    /// What the program's author can do about it.
    pub fn advice(self) -> &'static str {
        match self {
            Self::Memory => {
                "read the data in chunks, keep only the columns needed, or free what is no longer used"
            }
            Self::CpuTime => "replace Python loops by vectorised operations, or work on less data",
            Self::WallTime => "do less, or stop waiting: nothing from outside will arrive",
            Self::DiskBytes => "write less, or delete what is no longer needed",
            Self::DiskFiles => "write fewer, larger files",
            Self::OutputBytes => "print a summary, and write the rest to a file in /tmp",
            Self::OpenFiles => "close files, or open them in a with block",
            Self::ArtifactCount => "leave fewer files in /tmp, or put them in one archive",
            Self::ArtifactBytes => "leave smaller files in /tmp",
            Self::ResultBytes => "display fewer or smaller results",
            Self::Tasks => "start fewer threads or processes",
        }
    }
}

impl fmt::Display for LimitKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.describe())
    }
}

/// Every ceiling of one run. The default is finite everywhere.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Memory the program may add to what the interpreter needs, in bytes.
    #[serde(rename = "memory_bytes", alias = "memory")]
    pub memory: Limit<ByteSize>,
    /// Processors at once, in thousandths; 1000 is one core.
    #[serde(rename = "cpu_millis", alias = "cpus_millis")]
    pub cpu_millis: u32,
    /// Processor time.
    #[serde(rename = "cpu_time_ms", alias = "cpu_time")]
    pub cpu_time: Limit<Millis>,
    /// Elapsed time.
    #[serde(rename = "wall_time_ms", alias = "wall_time")]
    pub wall_time: Limit<Millis>,
    /// Bytes in /tmp and the working folder together.
    #[serde(rename = "disk_bytes", alias = "disk")]
    pub disk: Limit<ByteSize>,
    /// Files and folders in /tmp and the working folder together.
    pub disk_files: Limit<u64>,
    /// Bytes of each output stream.
    #[serde(rename = "output_bytes", alias = "output")]
    pub output: Limit<ByteSize>,
    /// Open descriptors.
    pub open_files: Limit<u64>,
    /// Files handed back.
    pub artifacts: Limit<u64>,
    /// Bytes handed back in files.
    pub artifact_bytes: Limit<ByteSize>,
    /// Bytes of displayed results.
    pub result_bytes: Limit<ByteSize>,
    /// Processes and threads.
    pub tasks: Limit<u64>,
}

impl Limits {
    /// Each ceiling the lower of the two: what may be asked of these by somebody who may not raise them.
    #[must_use]
    pub fn narrowed(&self, by: &Self) -> Self {
        Self {
            memory: self.memory.least(by.memory),
            cpu_millis: self.cpu_millis.min(by.cpu_millis),
            cpu_time: self.cpu_time.least(by.cpu_time),
            wall_time: self.wall_time.least(by.wall_time),
            disk: self.disk.least(by.disk),
            disk_files: self.disk_files.least(by.disk_files),
            output: self.output.least(by.output),
            open_files: self.open_files.least(by.open_files),
            artifacts: self.artifacts.least(by.artifacts),
            artifact_bytes: self.artifact_bytes.least(by.artifact_bytes),
            result_bytes: self.result_bytes.least(by.result_bytes),
            tasks: self.tasks.least(by.tasks),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            memory: Limit::At(ByteSize::mib(128)),
            cpu_millis: 1000,
            cpu_time: Limit::At(Millis(Duration::from_secs(10))),
            wall_time: Limit::At(Millis(Duration::from_secs(30))),
            disk: Limit::At(ByteSize::mib(100)),
            disk_files: Limit::At(1000),
            output: Limit::At(ByteSize::mib(1)),
            open_files: Limit::At(64),
            artifacts: Limit::At(32),
            artifact_bytes: Limit::At(ByteSize::mib(64)),
            result_bytes: Limit::At(ByteSize::mib(16)),
            tasks: Limit::At(32),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_is_finite() {
        let json = serde_json::to_string(&Limits::default()).unwrap();
        assert!(!json.contains("unlimited"), "{json}");
    }

    #[test]
    fn unlimited_is_a_word_and_an_unknown_key_is_an_error() {
        let limits: Limits =
            serde_json::from_str(r#"{"memory":"unlimited","wall_time":"2s"}"#).unwrap();
        assert_eq!(limits.memory, Limit::Unlimited);
        assert_eq!(limits.wall_time, Limit::At(Millis(Duration::from_secs(2))));
        assert!(serde_json::from_str::<Limits>(r#"{"memry":1}"#).is_err());
    }

    #[test]
    fn narrowing_never_raises_a_ceiling() {
        let base = Limits::default();
        let by = Limits {
            memory: Limit::At(ByteSize::mib(1024)),
            cpu_millis: 500,
            wall_time: Limit::Unlimited,
            tasks: Limit::At(4),
            ..base.clone()
        };
        let narrowed = base.narrowed(&by);
        assert_eq!(narrowed.memory, base.memory);
        assert_eq!(narrowed.wall_time, base.wall_time);
        assert_eq!((narrowed.cpu_millis, narrowed.tasks), (500, Limit::At(4)));
        assert_eq!(narrowed.narrowed(&base), narrowed);
    }

    #[test]
    fn limits_survive_a_round_trip() {
        let limits = Limits::default();
        let json = serde_json::to_string(&limits).unwrap();
        assert_eq!(serde_json::from_str::<Limits>(&json).unwrap(), limits);
    }
}
