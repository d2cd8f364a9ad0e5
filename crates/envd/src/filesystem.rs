//! Messages of the service `filesystem.Filesystem`.

use std::collections::BTreeMap;

use jiff::Timestamp as Moment;
use prost::Message;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::json::enumeration::Named;
use crate::json::{self, is_default};
use crate::process::Empty;
use crate::shape::{Bounded, Shape};

/// The service's name in a path.
pub const SERVICE: &str = "filesystem.Filesystem";

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum FileType {
    /// None of the others, or a link that leads nowhere.
    Unspecified = 0,
    /// A file.
    File = 1,
    /// A folder.
    Directory = 2,
    /// A link.
    Symlink = 3,
}

impl Named for FileType {
    fn name(&self) -> &'static str {
        match self {
            Self::Unspecified => "FILE_TYPE_UNSPECIFIED",
            Self::File => "FILE_TYPE_FILE",
            Self::Directory => "FILE_TYPE_DIRECTORY",
            Self::Symlink => "FILE_TYPE_SYMLINK",
        }
    }

    fn of_name(name: &str) -> Option<Self> {
        [
            Self::Unspecified,
            Self::File,
            Self::Directory,
            Self::Symlink,
        ]
        .into_iter()
        .find(|kind| kind.name() == name)
    }
}

/// A moment, in seconds and nanoseconds since 1970.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub struct Timestamp {
    /// Whole seconds.
    #[prost(int64, tag = "1")]
    pub seconds: i64,
    /// The rest.
    #[prost(int32, tag = "2")]
    pub nanos: i32,
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // A moment that no calendar has is written as the epoch.
        let moment = Moment::new(self.seconds, self.nanos).unwrap_or_default();
        serializer.collect_str(&moment)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let moment: Moment = text.parse().map_err(serde::de::Error::custom)?;
        Ok(Self {
            seconds: moment.as_second(),
            nanos: moment.subsec_nanosecond(),
        })
    }
}

/// One entry of a file system.
#[derive(Clone, PartialEq, Eq, Message, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EntryInfo {
    /// Its plain name.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    /// What it is, or what the link leads to is: see [`FileType`].
    #[prost(enumeration = "FileType", tag = "2")]
    #[serde(
        serialize_with = "json::enumeration::serialize::<_, FileType>",
        deserialize_with = "json::enumeration::deserialize::<_, FileType>",
        skip_serializing_if = "is_default"
    )]
    pub r#type: i32,
    /// Its absolute path.
    #[prost(string, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub path: String,
    /// Bytes.
    #[prost(int64, tag = "4")]
    #[serde(with = "json::text_number", skip_serializing_if = "is_default")]
    pub size: i64,
    /// Permission bits; of a link, those of what it leads to.
    #[prost(uint32, tag = "5")]
    #[serde(with = "json::number", skip_serializing_if = "is_default")]
    pub mode: u32,
    /// The same as text, of the entry itself: `drwxr-xr-x`, `Lrwxrwxrwx`.
    #[prost(string, tag = "6")]
    #[serde(skip_serializing_if = "is_default")]
    pub permissions: String,
    /// The owner's name.
    #[prost(string, tag = "7")]
    #[serde(skip_serializing_if = "is_default")]
    pub owner: String,
    /// The group's name.
    #[prost(string, tag = "8")]
    #[serde(skip_serializing_if = "is_default")]
    pub group: String,
    /// When its content changed.
    #[prost(message, optional, tag = "9")]
    #[serde(alias = "modified_time", skip_serializing_if = "is_default")]
    pub modified_time: Option<Timestamp>,
    /// Where a link leads in the end.
    #[prost(string, optional, tag = "10")]
    #[serde(alias = "symlink_target", skip_serializing_if = "is_default")]
    pub symlink_target: Option<String>,
    /// What was said about it when it was uploaded.
    #[prost(btree_map = "string, string", tag = "11")]
    #[serde(skip_serializing_if = "is_default")]
    pub metadata: BTreeMap<String, String>,
}

/// Request of `Stat`, `MakeDir` and `Remove`.
#[derive(Clone, PartialEq, Eq, Message, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PathRequest {
    /// The path.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub path: String,
}

/// Response of `Stat`, `MakeDir` and `Move`.
#[derive(Clone, PartialEq, Eq, Message, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EntryResponse {
    /// The entry.
    #[prost(message, optional, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub entry: Option<EntryInfo>,
}

/// Request of `Move`.
#[derive(Clone, PartialEq, Eq, Message, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct MoveRequest {
    /// From where.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub source: String,
    /// To where.
    #[prost(string, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub destination: String,
}

/// Request of `ListDir`.
#[derive(Clone, PartialEq, Eq, Message, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ListDirRequest {
    /// The folder.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub path: String,
    /// How many levels; 0 is one.
    #[prost(uint32, tag = "2")]
    #[serde(with = "json::number", skip_serializing_if = "is_default")]
    pub depth: u32,
}

/// Response of `ListDir`.
#[derive(Clone, PartialEq, Eq, Message, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ListDirResponse {
    /// A folder before what is in it, names in order of their bytes.
    #[prost(message, repeated, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub entries: Vec<EntryInfo>,
}

/// Request of `WatchDir` and `CreateWatcher`.
#[derive(Clone, PartialEq, Eq, Message, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct WatchRequest {
    /// The folder.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub path: String,
    /// Folders in it too, those to come included.
    #[prost(bool, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub recursive: bool,
    /// Whether events tell about the entry.
    #[prost(bool, tag = "3")]
    #[serde(alias = "include_entry", skip_serializing_if = "is_default")]
    pub include_entry: bool,
    /// Whether a file system of another machine may be watched.
    #[prost(bool, tag = "4")]
    #[serde(alias = "allow_network_mounts", skip_serializing_if = "is_default")]
    pub allow_network_mounts: bool,
}

/// What happened to an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, prost::Enumeration)]
#[repr(i32)]
pub enum EventType {
    /// Nothing.
    Unspecified = 0,
    /// It came to be.
    Create = 1,
    /// Its content changed.
    Write = 2,
    /// It is gone.
    Remove = 3,
    /// It has another name, or is elsewhere.
    Rename = 4,
    /// Its mode, owner or attributes changed.
    Chmod = 5,
}

impl Named for EventType {
    fn name(&self) -> &'static str {
        match self {
            Self::Unspecified => "EVENT_TYPE_UNSPECIFIED",
            Self::Create => "EVENT_TYPE_CREATE",
            Self::Write => "EVENT_TYPE_WRITE",
            Self::Remove => "EVENT_TYPE_REMOVE",
            Self::Rename => "EVENT_TYPE_RENAME",
            Self::Chmod => "EVENT_TYPE_CHMOD",
        }
    }

    fn of_name(name: &str) -> Option<Self> {
        let all = [
            Self::Unspecified,
            Self::Create,
            Self::Write,
            Self::Remove,
            Self::Rename,
            Self::Chmod,
        ];
        all.into_iter().find(|kind| kind.name() == name)
    }
}

/// Something happened below a watched folder.
#[derive(Clone, PartialEq, Eq, Message, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct FilesystemEvent {
    /// The path, relative to the watched folder.
    #[prost(string, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub name: String,
    /// What: see [`EventType`].
    #[prost(enumeration = "EventType", tag = "2")]
    #[serde(
        serialize_with = "json::enumeration::serialize::<_, EventType>",
        deserialize_with = "json::enumeration::deserialize::<_, EventType>",
        skip_serializing_if = "is_default"
    )]
    pub r#type: i32,
    /// The entry, where it was asked for and is still there.
    #[prost(message, optional, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub entry: Option<EntryInfo>,
}

/// One message of `WatchDir`: one of the three.
#[derive(Clone, PartialEq, Eq, Message, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct WatchResponse {
    /// It is being watched.
    #[prost(message, optional, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub start: Option<Empty>,
    /// Something happened.
    #[prost(message, optional, tag = "2")]
    #[serde(skip_serializing_if = "is_default")]
    pub filesystem: Option<FilesystemEvent>,
    /// Nothing; it is still being watched.
    #[prost(message, optional, tag = "3")]
    #[serde(skip_serializing_if = "is_default")]
    pub keepalive: Option<Empty>,
}

/// Response of `CreateWatcher`, and request of the other two.
#[derive(Clone, PartialEq, Eq, Message, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Watcher {
    /// Its name.
    #[prost(string, tag = "1")]
    #[serde(alias = "watcher_id", skip_serializing_if = "is_default")]
    pub watcher_id: String,
}

/// Response of `GetWatcherEvents`.
#[derive(Clone, PartialEq, Eq, Message, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct WatcherEvents {
    /// What happened since the last time.
    #[prost(message, repeated, tag = "1")]
    #[serde(skip_serializing_if = "is_default")]
    pub events: Vec<FilesystemEvent>,
}

const ENTRY: Shape = Shape::new(&[(11, None)]);
const EVENT: Shape = Shape::new(&[(3, Some(&ENTRY))]);

impl Bounded for EntryResponse {
    const SHAPE: Shape = Shape::new(&[(1, Some(&ENTRY))]);
}

impl Bounded for ListDirResponse {
    const SHAPE: Shape = Shape::new(&[(1, Some(&ENTRY))]);
}

impl Bounded for WatchResponse {
    const SHAPE: Shape = Shape::new(&[(2, Some(&EVENT))]);
}

impl Bounded for Watcher {
    const SHAPE: Shape = Shape::new(&[]);
}

impl Bounded for WatcherEvents {
    const SHAPE: Shape = Shape::new(&[(1, Some(&EVENT))]);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::Codec;

    #[test]
    fn an_entry_is_written_as_sdks_read_it() {
        let entry = EntryInfo {
            name: "a".into(),
            r#type: FileType::File.into(),
            path: "/home/user/a".into(),
            size: 4,
            mode: 0o644,
            permissions: "-rw-r--r--".into(),
            owner: "user".into(),
            group: "user".into(),
            modified_time: Some(Timestamp {
                seconds: 1,
                nanos: 500_000_000,
            }),
            symlink_target: None,
            metadata: BTreeMap::from([("k".to_owned(), "v".to_owned())]),
        };
        let expected = concat!(
            r#"{"name":"a","type":"FILE_TYPE_FILE","path":"/home/user/a","size":"4","mode":420,"#,
            r#""permissions":"-rw-r--r--","owner":"user","group":"user","modifiedTime":"1970-01-01T00:00:01.5Z","#,
            r#""metadata":{"k":"v"}}"#
        );
        assert_eq!(serde_json::to_string(&entry).unwrap(), expected);
        let back: EntryInfo = Codec::Json.decode_ours(expected.as_bytes()).unwrap();
        assert_eq!(back, entry);
        let bytes = Codec::Proto.encode(&entry);
        assert_eq!(EntryInfo::decode(bytes.as_ref()).unwrap(), entry);
    }

    #[test]
    fn a_moment_that_no_calendar_has_is_written_all_the_same() {
        let never = Timestamp {
            seconds: i64::MAX,
            nanos: -7,
        };
        assert_eq!(
            serde_json::to_string(&never).unwrap(),
            r#""1970-01-01T00:00:00Z""#
        );
    }

    #[test]
    fn both_spellings_of_a_field_are_read() {
        for text in [
            r#"{"path":"x","includeEntry":true}"#,
            r#"{"path":"x","include_entry":true}"#,
        ] {
            let request: WatchRequest = Codec::Json.decode_ours(text.as_bytes()).unwrap();
            assert!(request.include_entry);
        }
    }
}
