//! What this process may use of the machine it runs on: memory, open files, and an address that
//! others reach.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit, setrlimit};

/// Memory, in bytes, as far as it can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// What the machine has.
    pub machine: Option<u64>,
    /// What the control group of this process (or one above it) allows, where that is less.
    pub cgroup: Option<u64>,
}

impl Memory {
    /// Asks the kernel.
    pub fn measure() -> Self {
        Self::below(Path::new("/"))
    }

    /// What this process may use: the smaller of the two.
    pub fn usable(&self) -> Option<u64> {
        self.cgroup.or(self.machine)
    }

    /// The default of `memory`: a quarter of what is usable, from 64 MiB to 8 GiB.
    pub fn default_cache(&self) -> u64 {
        (self.usable().unwrap_or(0) / 4).clamp(64 << 20, 8 << 30)
    }

    fn below(root: &Path) -> Self {
        let machine = fs::read_to_string(root.join("proc/meminfo"))
            .ok()
            .and_then(|text| total(&text));
        let groups = fs::read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
        let limit = groups
            .lines()
            .filter_map(|line| group_limit(root, line))
            .min();
        // Version 1 writes "no limit" as a number near 2^63, and a limit above the machine is none
        // either.
        let cgroup = limit.filter(|limit| *limit < machine.unwrap_or(1 << 62));
        Self { machine, cgroup }
    }
}

/// Most files that this process may have open, `None` if there is no limit.
pub fn open_files() -> Option<u64> {
    getrlimit(Resource::Nofile).current
}

/// Raises the limit on open files as far as this process may by itself, and keeps it where that
/// fails.
///
/// Meant for the start of `serve`: shells commonly give 1024 where half a million is allowed.
pub fn raise_open_files() {
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // A refusal leaves the old limit, which the settings then report.
    let _ = setrlimit(Resource::Nofile, limit);
}

/// `MemTotal` of /proc/meminfo, in bytes.
fn total(meminfo: &str) -> Option<u64> {
    let rest = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))?;
    rest.trim()
        .strip_suffix("kB")?
        .trim_end()
        .parse::<u64>()
        .ok()?
        .checked_mul(1024)
}

/// The least limit on the way from the group of one line of /proc/self/cgroup up to the root:
/// limits add up by nesting.
fn group_limit(root: &Path, line: &str) -> Option<u64> {
    // ID:CONTROLLERS:PATH, the controllers being empty for version 2 (cgroups(7)).
    let mut fields = line.splitn(3, ':').skip(1);
    let (controllers, group) = (fields.next()?, fields.next()?);
    let (mounts, file): (&[&str], &str) = if controllers.is_empty() {
        (&["sys/fs/cgroup", "sys/fs/cgroup/unified"], "memory.max")
    } else if controllers.split(',').any(|name| name == "memory") {
        (&["sys/fs/cgroup/memory"], "memory.limit_in_bytes")
    } else {
        return None;
    };
    let relative = PathBuf::from(group.trim_start_matches('/'));
    // Inside a container the path may be the host's, of which only the root is to be seen here.
    let folders = relative.ancestors().flat_map(|folder| {
        mounts
            .iter()
            .map(move |mount| root.join(mount).join(folder))
    });
    let limits = folders.filter_map(|folder| {
        fs::read_to_string(folder.join(file))
            .ok()?
            .trim()
            .parse()
            .ok()
    });
    limits.min()
}

/// An address of this machine that others reach: the first one that is not loopback or link-local.
pub(super) fn address(v6: bool) -> Option<IpAddr> {
    let read = |path| std::fs::read_to_string(path).unwrap_or_default();
    let first = local_v4(&read("/proc/net/fib_trie"));
    let second = local_v6(&read("/proc/net/if_inet6"));
    let (first, second) = (first.map(IpAddr::V4), second.map(IpAddr::V6));
    // A wildcard of IPv6 takes IPv4 too.
    first.or(second.filter(|_| v6))
}

/// The first local address in the kernel's table of routes: the line before `/32 host LOCAL`.
fn local_v4(table: &str) -> Option<Ipv4Addr> {
    let lines = table.lines().zip(table.lines().skip(1));
    let local = lines.filter(|(_, kind)| kind.trim() == "/32 host LOCAL");
    local
        .filter_map(|(address, _)| address.rsplit(' ').next()?.parse::<Ipv4Addr>().ok())
        .find(|address| !address.is_loopback() && !address.is_link_local())
}

/// The first global address in the kernel's list: 32 digits, and scope 00.
fn local_v6(table: &str) -> Option<Ipv6Addr> {
    let addresses = table.lines().filter_map(|line| {
        let mut fields = line.split_whitespace();
        let bits = u128::from_str_radix(fields.next()?, 16).ok()?;
        (fields.nth(2)? == "00").then(|| Ipv6Addr::from_bits(bits))
    });
    addresses.into_iter().next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::tests::Scratch;

    const MACHINE: (&str, &str) = (
        "proc/meminfo",
        "MemTotal:       16777216 kB\nMemFree: 1 kB\n",
    );

    fn memory(files: &[(&str, &str)]) -> Memory {
        let scratch = Scratch::new();
        for (path, text) in files {
            scratch.write(path, text);
        }
        Memory::below(&scratch.path(""))
    }

    #[test]
    fn a_v2_group_is_bounded_by_the_least_limit_above_it() {
        let found = memory(&[
            MACHINE,
            ("proc/self/cgroup", "0::/pod/box\n"),
            ("sys/fs/cgroup/pod/box/memory.max", "max\n"),
            ("sys/fs/cgroup/pod/memory.max", "4294967296\n"),
            ("sys/fs/cgroup/memory.max", "8589934592\n"),
        ]);
        assert_eq!(
            found,
            Memory {
                machine: Some(16 << 30),
                cgroup: Some(4 << 30)
            }
        );
        assert_eq!(found.default_cache(), 1 << 30);
    }

    #[test]
    fn a_v1_group_whose_path_is_the_hosts_is_read_at_its_root() {
        let found = memory(&[
            MACHINE,
            (
                "proc/self/cgroup",
                "5:cpu:/x\n4:hugetlb,memory:/docker/abc\n",
            ),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "2147483648\n"),
            ("sys/fs/cgroup/memory.max", "1\n"),
        ]);
        assert_eq!(found.cgroup, Some(2 << 30));
        assert_eq!(found.usable(), Some(2 << 30));
    }

    #[test]
    fn no_limit_leaves_the_machine() {
        for limit in [
            "9223372036854771712\n",
            "17179869184\n",
            "max\n",
            "nonsense",
        ] {
            let found = memory(&[
                MACHINE,
                ("proc/self/cgroup", "4:memory:/\n0::/\n"),
                ("sys/fs/cgroup/memory/memory.limit_in_bytes", limit),
            ]);
            assert_eq!(
                found,
                Memory {
                    machine: Some(16 << 30),
                    cgroup: None
                },
                "{limit}"
            );
            assert_eq!(found.default_cache(), 4 << 30);
        }
    }

    #[test]
    fn the_default_stays_between_64_mib_and_8_gib() {
        let of = |machine| {
            Memory {
                machine,
                cgroup: None,
            }
            .default_cache()
        };
        assert_eq!(of(None), 64 << 20);
        assert_eq!(of(Some(128 << 20)), 64 << 20);
        assert_eq!(of(Some(1 << 40)), 8 << 30);
    }

    #[test]
    fn the_first_address_that_others_reach_is_found() {
        let table = "Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 127.0.0.1\n        /32 host LOCAL\n     \
                     |-- 10.1.2.0\n        /24 link UNICAST\n     |-- 10.1.2.3\n        /32 host LOCAL\n";
        assert_eq!(local_v4(table), Some(Ipv4Addr::new(10, 1, 2, 3)));
        assert_eq!(local_v4(""), None);
        let list = "00000000000000000000000000000001 01 80 10 80       lo\n\
                    fe800000000000000000000000000001 02 40 20 80     eth0\n\
                    fd000000000000000000000000000007 02 40 00 80     eth0\n";
        assert_eq!(local_v6(list), "fd00::7".parse().ok());
    }
}
