//! The processes of a group, as the kernel's own files tell of them.

use casemate_driver::outside::Process;
use casemate_linux::cgroup::Cgroup;

pub(crate) fn processes(group: Option<&Cgroup>, ours: &[u32]) -> Result<Vec<Process>, String> {
    let group = group.ok_or("there is no control group")?;
    let all = group
        .processes()
        .map_err(|error| format!("reading the group: {error}"))?;
    let mut found = Vec::new();
    for pid in all.into_iter().filter(|pid| !ours.contains(pid)) {
        // One that ends between the two looks is not there to be looked at.
        if let Ok(process) = Process::open(pid)
            && !process.says("State").starts_with(['Z', 'X'])
        {
            found.push(process);
        }
    }
    if found.is_empty() {
        return Err("there is no process in the group".to_owned());
    }
    Ok(found)
}
