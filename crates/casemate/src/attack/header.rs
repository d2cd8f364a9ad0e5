//! The header of an attack's file: comment lines that say what it tries and what must stop it.

use std::fmt;

use serde::Serialize;

/// What an attack threatens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Threat {
    /// The machine's time, memory or space.
    Exhaustion,
    /// What is stored on the machine.
    Files,
    /// What is reached from it.
    Network,
    /// The walls themselves.
    Escape,
    /// What can be measured through them.
    SideChannel,
}

impl Threat {
    /// All of them, in the order of the table.
    pub(crate) const ALL: [Self; 5] = [
        Self::Exhaustion,
        Self::Files,
        Self::Network,
        Self::Escape,
        Self::SideChannel,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Exhaustion => "exhaustion",
            Self::Files => "files",
            Self::Network => "network",
            Self::Escape => "escape",
            Self::SideChannel => "side-channel",
        }
    }
}

impl fmt::Display for Threat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What stands between an attack and its aim in one kind of backend.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Promise {
    /// The first of these walls that the backend has: `WALL | WALL`.
    Walls(Vec<String>),
    /// Nothing is promised there, for this reason: `- REASON`.
    NotPromised(String),
}

impl Promise {
    fn parse(line: &str) -> Self {
        match line.strip_prefix("- ") {
            Some(reason) => Self::NotPromised(reason.to_owned()),
            None => Self::Walls(line.split(" | ").map(str::to_owned).collect()),
        }
    }
}

/// A header, with every line it must have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Header {
    /// The file's name without `.py`.
    pub(crate) attack: String,
    /// What it threatens.
    pub(crate) threat: Threat,
    /// What it does, in a sentence.
    pub(crate) tries: String,
    /// What must stop it in WebAssembly; walls have the names of receipts and events.
    pub(crate) wall: Promise,
    /// What must stop it where programs are native processes.
    pub(crate) native: Promise,
    /// What must be seen with no sandbox.
    pub(crate) control: String,
    /// How the host decides.
    pub(crate) oracle: String,
}

impl Header {
    /// Reads the comment lines at the top of `source`.
    ///
    /// # Errors
    /// The first line that is missing, said twice or not one of a header, in words.
    pub(crate) fn parse(name: &str, source: &str) -> Result<Self, String> {
        let mut fields = Vec::new();
        for line in source.lines().map_while(|line| line.strip_prefix("# ")) {
            let (key, value) = line
                .split_once(": ")
                .ok_or_else(|| format!("{name}.py: {line:?} is not a line of a header"))?;
            if fields.iter().any(|(known, _)| *known == key) {
                return Err(format!("{name}.py: its header says {key} twice"));
            }
            fields.push((key, value.trim()));
        }
        let mut take = |key: &str| {
            let at = fields.iter().position(|(known, _)| *known == key);
            at.map(|at| fields.swap_remove(at).1.to_owned())
                .filter(|value| !value.is_empty())
                .ok_or_else(|| format!("{name}.py: its header has no line `# {key}: `"))
        };
        let threat = take("threat")?;
        let wall = take("wall")?;
        // The line is left out where it would name the same wall.
        let native = take("native").unwrap_or_else(|_| wall.clone());
        let header = Self {
            attack: take("attack")?,
            threat: Threat::ALL
                .into_iter()
                .find(|known| known.name() == threat)
                .ok_or_else(|| format!("{name}.py: {threat:?} is not a threat"))?,
            tries: take("tries")?,
            wall: Promise::parse(&wall),
            native: Promise::parse(&native),
            control: take("control")?,
            oracle: take("oracle")?,
        };
        if header.attack != name {
            return Err(format!("{name}.py: its header names {:?}", header.attack));
        }
        match fields.first() {
            Some((key, _)) => Err(format!("{name}.py: {key:?} is no key of a header")),
            None => Ok(header),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: &str = "# attack: a\n# threat: files\n# tries: t\n# wall: w\n# control: c\n# oracle: o\nimport os\n";

    #[test]
    fn a_whole_header_is_read() {
        let header = Header::parse("a", WHOLE).unwrap();
        assert_eq!(header.threat, Threat::Files);
        assert_eq!(header.oracle, "o");
        assert_eq!(header.wall, Promise::Walls(vec!["w".into()]));
        assert_eq!(header.native, header.wall);
    }

    #[test]
    fn natively_another_wall_may_stand_or_nothing_be_promised() {
        let with =
            |line: &str| WHOLE.replace("# wall: w\n", &format!("# wall: w\n# native: {line}\n"));
        let native = |line: &str| Header::parse("a", &with(line)).unwrap().native;
        assert_eq!(
            native("root | moat"),
            Promise::Walls(vec!["root".into(), "moat".into()])
        );
        assert_eq!(
            native("- it is its own"),
            Promise::NotPromised("it is its own".into())
        );
    }

    #[test]
    fn what_is_missing_wrong_or_doubled_is_named() {
        for (from, to, said) in [
            ("# wall: w\n", "", "wall"),
            ("files", "boredom", "boredom"),
            ("attack: a", "attack: b", "\"b\""),
            ("# tries: t", "# tries:  ", "tries"),
            ("# oracle: o\n", "# oracle: o\n# wall: v\n", "twice"),
            ("# oracle: o\n", "# oracle: o\n# mood: v\n", "mood"),
            ("# oracle: o\n", "# oracle: o\n# loose\n", "loose"),
        ] {
            let error = Header::parse("a", &WHOLE.replace(from, to)).unwrap_err();
            assert!(error.contains(said), "{error}");
        }
    }
}
