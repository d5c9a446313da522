//! What the machine has to give: memory, open files, directories.

use super::*;

#[test]
fn memory_that_cannot_work_is_refused_with_the_arithmetic() {
    assert!(mistake("[cache]\nmemory = '63MiB'").starts_with("2: `memory` is 63 MiB: 70 % of it"));
    assert!(load("[cache]\nmemory = '64MiB'", &Flags::default()).is_ok());
    let few = mistake("[cache]\nmemory = '64MiB'\nblock_size = '4MiB'");
    assert!(
        few.starts_with(
            "2: `memory` of 64 MiB holds 16 blocks of 4 MiB, and at least 32 are needed"
        ),
        "{few}"
    );
    let small = Surroundings {
        memory: Memory {
            machine: Some(200 << 20),
            cgroup: None,
        },
        ..around()
    };
    let few = load_in(&small, "[cache]\nblock_size = '4MiB'", &Flags::default()).unwrap_err();
    assert!(
        few[0].starts_with("2: `memory` of 64 MiB holds 16 blocks"),
        "{few:?}"
    );
}

#[test]
fn memory_beyond_80_percent_of_the_group_is_a_warning() {
    let pod = Surroundings {
        memory: Memory {
            machine: Some(16 << 30),
            cgroup: Some(1000 << 20),
        },
        ..around()
    };
    let text =
        |size| format!("[cache]\nmemory = '{size}'\n[[datasets]]\nname = 'one'\norigin = '/srv'");
    assert_eq!(
        load_in(&pod, &text("800MiB"), &Flags::default())
            .unwrap()
            .warnings,
        Vec::<String>::new()
    );
    let warnings = load_in(&pod, &text("801MiB"), &Flags::default())
        .unwrap()
        .warnings;
    assert_eq!(warnings.len(), 1);
    assert!(
        warnings[0].starts_with("`memory` is 801 MiB, more than 80 % of the 1000 MiB"),
        "{warnings:?}"
    );
    assert_eq!(
        load_in(&pod, "", &Flags::default()).unwrap().cache.memory,
        250 << 20
    );
}

#[test]
fn connections_are_lowered_to_the_open_files_with_a_warning() {
    let few = Surroundings {
        open_files: Some(1024),
        ..around()
    };
    let flags = datasets(&["one=/srv", "two=/srv"]);
    let settings = Settings::load_in(&few, None, &flags).unwrap();
    assert_eq!(settings.limits.max_connections, 1024 - 128 - 2 * 64);
    assert!(
        settings.warnings[0].starts_with("`max_connections` is lowered from 16384 to 768"),
        "{settings:?}"
    );
    let tiny = Surroundings {
        open_files: Some(64),
        ..around()
    };
    assert_eq!(
        Settings::load_in(&tiny, None, &flags)
            .unwrap()
            .limits
            .max_connections,
        32
    );
    let many = Surroundings {
        open_files: Some(20_000),
        ..around()
    };
    assert_eq!(
        Settings::load_in(&many, None, &flags).unwrap().warnings,
        Vec::<String>::new()
    );
}

#[test]
fn block_files_are_open_files_too() {
    let limited = |limit| Surroundings {
        open_files: Some(limit),
        ..around()
    };
    let text = "[cache]\nmemory = '8GiB'\nnvme = '2GiB'";
    let blocks = forebay_storage::nvme::geometry::Geometry::new(
        2 << 30,
        forebay_storage::block::BlockSize::new(1 << 20),
    )
    .unwrap()
    .segments;
    let least = blocks + 128 + 128;
    let settings = load_in(&limited(least), text, &datasets(&["one=/srv"])).unwrap();
    assert_eq!(settings.limits.max_connections, 64, "half of what is left");
    let few = load_in(&limited(least - 1), text, &Flags::default()).unwrap_err();
    assert_eq!(few.len(), 1, "{few:?}");
    assert!(
        few[0].starts_with(&format!(
            "3: `nvme` of 2 GiB keeps {blocks} block files open"
        )) && few[0].contains(&format!("to {least} at least")),
        "{few:?}"
    );
}

#[test]
fn nvme_dir_must_take_files_and_have_a_tier_to_be_for() {
    let refusing = Surroundings {
        unusable: &|dir| Some(format!("{} is not a directory", dir.display())),
        ..around()
    };
    let told = "[cache]\nnvme = '1GiB'\nnvme_dir = '/mnt/file'";
    let mistakes = |text| load_in(&refusing, text, &Flags::default()).unwrap_err();
    assert_eq!(
        mistakes(told),
        [
            "3: `nvme` has no place for its files: /mnt/file is not a directory; name a directory \
          that this process may make or write to in `nvme_dir`"
        ]
    );
    assert!(mistakes("[cache]\nnvme = '1GiB'")[0].starts_with("2: `nvme` has no place"));
    let alone = load("[cache]\nnvme_dir = '/mnt/disk'", &datasets(&["one=/srv"])).unwrap();
    assert!(
        alone.warnings[0].starts_with("`nvme_dir` is /mnt/disk, but nothing is written there"),
        "{:?}",
        alone.warnings
    );
}

#[test]
fn the_data_directory_follows_the_user() {
    let dir = |around: Surroundings<'_>| {
        Settings::load_in(&around, None, &Flags::default()).map(|s| s.data_dir)
    };
    assert_eq!(
        dir(Surroundings {
            root: true,
            ..around()
        }),
        Ok("/var/lib/forebay".into())
    );
    let state = |name: &str| (name == "XDG_STATE_HOME").then(|| "/state".into());
    assert_eq!(
        dir(Surroundings {
            env: &state,
            ..around()
        }),
        Ok("/state/forebay".into())
    );
    let relative = |name: &str| Some(if name == "HOME" { "/h" } else { "state" }.into());
    assert_eq!(
        dir(Surroundings {
            env: &relative,
            ..around()
        }),
        Ok("/h/.local/state/forebay".into())
    );
    let homeless = dir(Surroundings {
        env: &|_| None,
        ..around()
    })
    .unwrap_err();
    assert!(
        homeless
            .to_string()
            .starts_with("--data-dir: $HOME is not set"),
        "{homeless}"
    );
}
