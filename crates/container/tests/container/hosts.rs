//! Sessions of other processes like this one: killed with their host, or refused because a runtime leaves something out.

use std::time::{Duration, Instant};

use casemate_backend::session::Sessions;
use casemate_container::ContainerSessions;

use crate::sessions::{Test, plan, try_open, wait};
use crate::support;
use crate::walls::{guests, left_of};

pub(crate) const TESTS: &[Test] = &[
    (
        "nothing_is_left_when_the_host_is_killed",
        nothing_is_left_when_the_host_is_killed,
    ),
    (
        "what_a_runtime_leaves_out_is_noticed",
        what_a_runtime_leaves_out_is_noticed,
    ),
];

/// While it is made, while it comes up, while it lives, and frozen.
fn nothing_is_left_when_the_host_is_killed(sessions: &ContainerSessions) {
    let agent = support::agent().unwrap();
    for (millis, how) in [
        (30, "live"),
        (120, "live"),
        (300, "live"),
        (2000, "live"),
        (2000, "frozen"),
    ] {
        let mut host = support::another(sessions.name(), how, agent.path());
        std::thread::sleep(Duration::from_millis(millis));
        let pid = host.pid();
        host.kill().unwrap();
        host.wait().unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while !guests().is_empty() {
            assert!(
                Instant::now() < deadline,
                "{millis} ms, {how}: {:?}",
                guests()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        // What is frozen dies when its group is let go on, so that the others are empty at the second look.
        let looked = casemate_linux::cgroup::reclaim_stale();
        let looked = looked.or_else(|_| casemate_linux::cgroup::reclaim_stale());
        looked.unwrap();
        assert_eq!(left_of(pid), Vec::<String>::new(), "{millis} ms, {how}");
    }
}

/// What is taken from the bundle, as Python, and the wall that is named for it.
const LEFT_OUT: &[(&str, &str)] = &[
    (
        "config['linux']['namespaces'] = [n for n in config['linux']['namespaces'] if n['type'] != 'network']",
        "network_namespace",
    ),
    (
        "config['linux']['namespaces'] = [n for n in config['linux']['namespaces'] if n['type'] != 'ipc']",
        "ipc_namespace",
    ),
    (
        "config['linux']['namespaces'] = [n for n in config['linux']['namespaces'] if n['type'] != 'pid']",
        "could not be made",
    ),
    (
        "config['linux']['namespaces'] = [n for n in config['linux']['namespaces'] if n['type'] != 'user']; config['linux'].pop('uidMappings', 0); config['linux'].pop('gidMappings', 0)",
        "user_namespace",
    ),
    ("config['linux'].pop('seccomp')", "seccomp"),
    (
        "call = next(c for c in config['linux']['seccomp']['syscalls'] if 'socket' in c['names'] and c['action'] == 'SCMP_ACT_ALLOW'); call.pop('args')",
        "seccomp",
    ),
    (
        "config['process']['noNewPrivileges'] = False",
        "could not be made",
    ),
    (
        "config['process']['capabilities'] = {k: ['CAP_SYS_ADMIN'] for k in ('bounding', 'effective', 'permitted')}",
        "capabilities",
    ),
    (
        "config['process']['user'] = {'uid': 0, 'gid': 0}",
        "identity",
    ),
    ("config['process'].pop('rlimits')", "rlimits"),
    (
        "config['process']['env'].append('HOST_SECRET=1')",
        "environment",
    ),
    (
        "config['mounts'].append({'destination': '/srv', 'type': 'bind', 'source': '/etc', 'options': ['rbind', 'ro']})",
        "could not be made",
    ),
    (
        "next(m for m in config['mounts'] if m['destination'] == '/home/user').update(source='/var/tmp')",
        "root",
    ),
    (
        "next(m for m in config['mounts'] if m['destination'] == '/dev/pts').update(type='bind', source='/dev/pts', options=['rbind', 'nosuid', 'noexec'])",
        "root",
    ),
    (
        "config['mounts'].remove(next(m for m in config['mounts'] if m['destination'] == '/etc/passwd'))",
        "root",
    ),
];

/// In mounts of a process's own the runtime is one that leaves something out before it becomes the real one.
fn what_a_runtime_leaves_out_is_noticed(sessions: &ContainerSessions) {
    let replaced = support::Replaced::new(sessions.name());
    assert_eq!(replaced.opened("pass"), "it lives\n");
    let mut wrong = Vec::new();
    for (taken, wall) in LEFT_OUT {
        let said = replaced.opened(taken);
        if !said.starts_with("refused: ") || !said.contains(wall) {
            wrong.push(format!("{taken}: not for {wall}: {said}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Opens one and says how it went; one that is to stay stays, until this process is killed.
pub(crate) fn be_a_host(sessions: &ContainerSessions, how: &str) {
    match try_open(sessions, &plan(), None) {
        Err(error) => println!("refused: {error}"),
        Ok(open) => {
            let asked = open.receipt.satisfies(&plan().asked);
            asked.unwrap();
            wait(open.client.health()).unwrap();
            println!("it lives");
            if how == "frozen" {
                open.session.pause().unwrap();
            }
            if how != "once" {
                std::thread::sleep(Duration::from_secs(60));
            }
        }
    }
}
