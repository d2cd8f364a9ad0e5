//! Resource limits.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use super::{Rlimits, wall};
use crate::limit::Limit;
use crate::step::{Step, failed};

pub(super) fn apply(limits: &Rlimits) -> Step {
    let wanted = [
        ("nofile", Resource::Nofile, Limit::At(limits.open_files)),
        ("nproc", Resource::Nproc, Limit::At(limits.tasks)),
        ("core", Resource::Core, Limit::At(0)),
        ("fsize", Resource::Fsize, Limit::At(0)),
        ("memlock", Resource::Memlock, Limit::At(0)),
        ("cpu", Resource::Cpu, limits.cpu_seconds),
        ("as", Resource::As, limits.address_space_bytes),
        ("data", Resource::Data, limits.data_bytes),
    ];
    set_all(wall::RLIMITS, &wanted)
}

/// Sets limits and reads each back.
pub(crate) fn set_all(wall: &'static str, wanted: &[(&str, Resource, Limit)]) -> Step {
    let asked: Vec<String> = wanted.iter().map(|(n, _, v)| format!("{n} {v}")).collect();
    Step::run(wall, asked.join(", "), || {
        for (name, resource, limit) in wanted {
            set(name, *resource, *limit)?;
        }
        Ok("hard and soft, read back".to_owned())
    })
}

fn set(name: &str, resource: Resource, limit: Limit) -> Result<(), String> {
    let Some(value) = limit.value() else {
        return Ok(());
    };
    // A hard limit that is already lower stays: only root could raise it, and nobody should.
    let ceiling = getrlimit(resource).maximum.unwrap_or(u64::MAX);
    let value = value.min(ceiling);
    let both = Rlimit {
        current: Some(value),
        maximum: Some(value),
    };
    let call = format!("setrlimit {name}");
    setrlimit(resource, both).map_err(|e| failed(&call, e))?;
    if getrlimit(resource) == both {
        Ok(())
    } else {
        Err(format!("{call}: the kernel kept another value"))
    }
}
