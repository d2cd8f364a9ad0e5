//! A group that another program made for its container: read and compared, never changed or removed.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use super::layout::{Controller, Version};
use super::{Cgroup, CgroupLimits, Layout, Place, limits};
use crate::step::Step;

impl Cgroup {
    /// The group that a process is in, in every hierarchy. Dropping it leaves it as it is.
    ///
    /// # Errors
    /// When the process or its group cannot be seen from here, as from another machine or another
    /// control group namespace, or when it is in the group of this process too.
    pub fn of_process(pid: u32) -> io::Result<Self> {
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
        let layout = Layout::parse(&mounts, &groups, Path::new("/"));
        let group = Self::foreign(layout);
        if group.places.is_empty() {
            return Err(io::Error::other("its control group is not to be seen here"));
        }
        if !group.holds(pid)? {
            let text = format!("process {pid} is not where its control group is said to be");
            return Err(io::Error::other(text));
        }
        if group.holds(std::process::id())? {
            return Err(io::Error::other(
                "it is in the control group of this process",
            ));
        }
        Ok(group)
    }

    /// In a layout that was read for a process of the group.
    pub(super) fn foreign(layout: Layout) -> Self {
        let places = layout.own_places();
        Self {
            layout,
            places,
            reasons: BTreeMap::new(),
            steps: Vec::new(),
            runtime: None,
            owned: false,
        }
    }

    /// What the kernel says of the group's limits, one step a limit: each stands where it is what was
    /// asked for.
    #[must_use]
    pub fn read_back(&self, limits: &CgroupLimits) -> Vec<Step> {
        limits::read_back(&self.places, limits)
    }
}

impl Layout {
    /// Where the process this layout was read for has each controller.
    fn own_places(&self) -> BTreeMap<Controller, Place> {
        let place = |controller: Controller| {
            let (version, dir) = match (self.own_v1(controller), self.own_v2()) {
                (Some(dir), _) => (Version::V1, dir),
                (None, Some(dir)) if dir.join(controller.limit_v2()?).exists() => {
                    (Version::V2, dir)
                }
                _ => return None,
            };
            let dir = dir.to_owned();
            Some((controller, Place { version, dir }))
        };
        Controller::ALL.into_iter().filter_map(place).collect()
    }
}
