//! Writing limits and reading them back.

use std::collections::BTreeMap;
use std::io;

use super::layout::{Controller, Version, unreadable};
use super::{CgroupLimits, Place, wall};
use crate::limit::Limit;
use crate::step::{Step, failed};

/// The period over which processor time is given out, in microseconds: the kernel's default.
const PERIOD_US: u64 = 100_000;
/// The smallest quota the kernel takes, in microseconds.
const SMALLEST_QUOTA_US: u64 = 1_000;

const NOT_LIMITED: &str = "not limited, as asked";

/// What each wall is asked for, in words.
pub(super) fn asked(limits: &CgroupLimits) -> [(&'static str, String); 4] {
    let unit = |limit: Limit, unit: &str| match limit {
        Limit::At(value) => format!("{value} {unit}"),
        Limit::Unlimited => "unlimited".to_owned(),
    };
    [
        (wall::MEMORY, unit(limits.memory_bytes, "bytes")),
        (wall::SWAP, "none".to_owned()),
        (wall::PIDS, unit(limits.pids, "tasks")),
        (
            wall::CPU,
            unit(limits.cpu_millicores, "thousandths of a processor"),
        ),
    ]
}

pub(super) fn apply(
    places: &BTreeMap<Controller, Place>,
    reasons: &BTreeMap<Controller, String>,
    limits: &CgroupLimits,
) -> Vec<Step> {
    let place = |controller| {
        places.get(&controller).ok_or_else(|| {
            let reason = reasons.get(&controller).cloned();
            reason.unwrap_or_else(|| "the controller is not there".to_owned())
        })
    };
    asked(limits)
        .into_iter()
        .map(|(name, words)| {
            Step::run(name, words, || match name {
                wall::MEMORY => set_memory(place(Controller::Memory)?, limits.memory_bytes),
                wall::SWAP => no_swap(place(Controller::Memory)?, limits.memory_bytes),
                wall::PIDS => match (limits.pids, place(Controller::Pids)) {
                    (Limit::Unlimited, Err(_)) => Ok(NOT_LIMITED.to_owned()),
                    (limit, place) => set_pids(place?, limit),
                },
                _ => match (limits.cpu_millicores, place(Controller::Cpu)) {
                    (Limit::Unlimited, Err(_)) => Ok(NOT_LIMITED.to_owned()),
                    (limit, place) => set_cpu(place?, limit),
                },
            })
        })
        .collect()
}

/// Reads a group's limits, which somebody else has set.
pub(super) fn read_back(places: &BTreeMap<Controller, Place>, limits: &CgroupLimits) -> Vec<Step> {
    let place = |controller: Controller| {
        let missing = || format!("the group has no {} controller", controller.name());
        places.get(&controller).ok_or_else(missing)
    };
    asked(limits)
        .into_iter()
        .map(|(name, words)| {
            Step::run(name, words, || match name {
                wall::MEMORY => read_memory(place(Controller::Memory)?, limits.memory_bytes),
                wall::SWAP => read_swap(place(Controller::Memory)?, limits.memory_bytes),
                wall::PIDS => match limits.pids {
                    Limit::Unlimited => Ok(NOT_LIMITED.to_owned()),
                    Limit::At(count) => {
                        verify(place(Controller::Pids)?, "pids.max", limits.pids)?;
                        Ok(format!("{count} tasks, read in its group"))
                    }
                },
                _ => match limits.cpu_millicores {
                    Limit::Unlimited => Ok(NOT_LIMITED.to_owned()),
                    Limit::At(milli) => read_cpu(place(Controller::Cpu)?, milli),
                },
            })
        })
        .collect()
}

fn read_memory(place: &Place, limit: Limit) -> Result<String, String> {
    let file = match place.version {
        Version::V1 => "memory.limit_in_bytes",
        Version::V2 => "memory.max",
    };
    verify(place, file, limit)?;
    match limit {
        Limit::At(bytes) => Ok(format!("{bytes} bytes, read in its group")),
        Limit::Unlimited => Ok(NOT_LIMITED.to_owned()),
    }
}

fn read_swap(place: &Place, memory: Limit) -> Result<String, String> {
    const SUM: &str = "memory.memsw.limit_in_bytes";
    match (place.version, memory) {
        (Version::V1, Limit::At(_)) if place.has(SUM) => {
            verify(place, SUM, memory)?;
            Ok("memory and swap share one limit".to_owned())
        }
        (Version::V2, Limit::At(_)) if place.has("memory.swap.max") => {
            verify(place, "memory.swap.max", Limit::At(0))?;
            Ok("swap 0, read in its group".to_owned())
        }
        _ if machine_has_no_swap() => Ok("this machine has no swap".to_owned()),
        _ => Err("its group may swap".to_owned()),
    }
}

/// The share of a processor, whatever the period.
fn read_cpu(place: &Place, millicores: u64) -> Result<String, String> {
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let read = |file: &str| place.read(file).map_err(|e| unreadable(file, e));
    let (quota, period) = match place.version {
        Version::V1 => (read("cpu.cfs_quota_us")?, read("cpu.cfs_period_us")?),
        Version::V2 => {
            let line = read("cpu.max")?;
            let (quota, period) = line.split_once(' ').unwrap_or((&line, ""));
            (quota.to_owned(), period.to_owned())
        }
    };
    let (Some(quota), Some(period)) = (number(&quota), number(&period)) else {
        return Err(format!("its quota is {}", quota.trim()));
    };
    let allowed = period.saturating_mul(millicores) / 1000;
    if quota > allowed.max(SMALLEST_QUOTA_US) {
        return Err(format!("{quota} of every {period} microseconds"));
    }
    Ok(format!(
        "{quota} of every {period} microseconds, read in its group"
    ))
}

/// Sets the memory limit and, where the group has one, the limit on memory and swap together.
pub(super) fn set_memory(place: &Place, limit: Limit) -> Result<String, String> {
    match place.version {
        Version::V1 => set_memory_v1(place, limit),
        Version::V2 => {
            set(place, "memory.max", &word(limit, "max"))?;
            verify(place, "memory.max", limit)?;
            if place.has("memory.oom.group") {
                set(place, "memory.oom.group", "1")?;
            }
            Ok(format!("{limit} bytes, read back"))
        }
    }
}

/// The sum with swap may never be below the limit, so the order depends on the direction.
fn set_memory_v1(place: &Place, limit: Limit) -> Result<String, String> {
    const MEMORY: &str = "memory.limit_in_bytes";
    const SUM: &str = "memory.memsw.limit_in_bytes";
    let value = word(limit, "-1");
    let swaps = place.has(SUM);
    let verified = || {
        verify(place, MEMORY, limit)?;
        if swaps {
            verify(place, SUM, limit)?;
        }
        Ok(format!("{limit} bytes, read back"))
    };
    // A group that serves one run after another mostly has it from the last one.
    if limit.value().is_some()
        && let stands @ Ok(_) = verified()
    {
        return stands;
    }
    if swaps {
        let now = place.number(SUM).map_err(|e| unreadable(SUM, e))?;
        let raising = limit.value().is_none_or(|value| value > now);
        let order = if raising {
            [SUM, MEMORY]
        } else {
            [MEMORY, SUM]
        };
        for file in order {
            set(place, file, &value)?;
        }
    } else {
        set(place, MEMORY, &value)?;
    }
    verified()
}

fn no_swap(place: &Place, memory: Limit) -> Result<String, String> {
    match place.version {
        Version::V1 if place.has("memory.memsw.limit_in_bytes") => {
            if memory == Limit::Unlimited {
                set(place, "memory.swappiness", "0")?;
                return Ok("swappiness 0".to_owned());
            }
            Ok("memory and swap share one limit".to_owned())
        }
        Version::V2 if place.has("memory.swap.max") => {
            set(place, "memory.swap.max", "0")?;
            verify(place, "memory.swap.max", Limit::At(0))?;
            Ok("swap 0, read back".to_owned())
        }
        _ if machine_has_no_swap() => Ok("this machine has no swap".to_owned()),
        _ => Err("the kernel does not account swap (boot with swapaccount=1)".to_owned()),
    }
}

/// `/proc/swaps` has one line of headings and one for every area.
fn machine_has_no_swap() -> bool {
    std::fs::read_to_string("/proc/swaps").is_ok_and(|text| text.lines().count() <= 1)
}

pub(super) fn set_pids(place: &Place, limit: Limit) -> Result<String, String> {
    let value = word(limit, "max");
    set(place, "pids.max", &value)?;
    expect(place, "pids.max", &value)?;
    Ok(match limit {
        Limit::Unlimited => NOT_LIMITED.to_owned(),
        Limit::At(count) => format!("{count} tasks, read back"),
    })
}

fn set_cpu(place: &Place, millicores: Limit) -> Result<String, String> {
    let quota = |milli: u64| (milli.saturating_mul(PERIOD_US) / 1000).max(SMALLEST_QUOTA_US);
    let quota = millicores.value().map(quota).map(|quota| quota.to_string());
    match place.version {
        Version::V1 => {
            let quota = quota.clone().unwrap_or_else(|| "-1".to_owned());
            set(place, "cpu.cfs_period_us", &PERIOD_US.to_string())?;
            set(place, "cpu.cfs_quota_us", &quota)?;
            expect(place, "cpu.cfs_quota_us", &quota)?;
        }
        Version::V2 => {
            let quota = quota.clone().unwrap_or_else(|| "max".to_owned());
            let line = format!("{quota} {PERIOD_US}");
            set(place, "cpu.max", &line)?;
            expect(place, "cpu.max", &line)?;
        }
    }
    Ok(quota.map_or_else(
        || NOT_LIMITED.to_owned(),
        |quota| format!("{quota} of every {PERIOD_US} microseconds, read back"),
    ))
}

fn word(limit: Limit, unlimited: &str) -> String {
    limit
        .value()
        .map_or_else(|| unlimited.to_owned(), |v| v.to_string())
}

fn set(place: &Place, file: &str, value: &str) -> Result<(), String> {
    place
        .write(file, value)
        .map_err(|e| failed(&format!("writing {value} to {file}"), e))
}

fn expect(place: &Place, file: &str, value: &str) -> Result<(), String> {
    let read = place.read(file).map_err(|e| unreadable(file, e))?;
    if read.trim() == value {
        return Ok(());
    }
    Err(format!("{file} says {} instead of {value}", read.trim()))
}

/// Reads a limit back. The kernel rounds memory down to whole pages.
fn verify(place: &Place, file: &str, limit: Limit) -> Result<(), String> {
    let Some(wanted) = limit.value() else {
        return Ok(());
    };
    let read = place
        .number(file)
        .map_err(|e: io::Error| unreadable(file, e))?;
    let page = u64::try_from(rustix::param::page_size()).unwrap_or(4096);
    if read == wanted || (file.starts_with("memory.") && read == wanted / page * page) {
        return Ok(());
    }
    Err(format!("{file} says {read} instead of {wanted}"))
}
