//! The settings of a fleet.

use super::*;

/// A fleet's settings, with a line more.
fn fleet(line: &str) -> String {
    format!("[fleet]\nname = 'f'\nkey = 'sixteen bytes, k'\nlisten = '10.0.0.7:7071'\n{line}\n")
}

#[test]
fn a_fleet_has_its_defaults() {
    let settings = load(&fleet(""), &Flags::default()).unwrap();
    let found = settings.fleet.unwrap();
    assert_eq!((found.member, found.edge, found.weight), (None, false, 1));
    assert_eq!(found.advertise, found.listen);
    assert_eq!((found.client_url, found.zone), (None, String::new()));
    assert!(found.seeds.is_empty() && found.key_next.is_none());
    assert!(load("", &Flags::default()).unwrap().fleet.is_none());
}

#[test]
fn a_fleet_advertises_what_it_is_told_with_the_port_it_listens_on() {
    for (line, advertise) in [
        ("advertise = '10.0.0.8'", "10.0.0.8:7071"),
        ("advertise = '10.0.0.8:1'", "10.0.0.8:1"),
        ("advertise = '[fd00::1]:2'", "[fd00::1]:2"),
    ] {
        let settings = load(&fleet(line), &Flags::default()).unwrap();
        assert_eq!(settings.fleet.unwrap().advertise.to_string(), advertise);
    }
}

#[test]
fn every_mistake_of_a_fleet_is_told() {
    for (line, part) in [
        ("member = ''", "`member` is empty"),
        ("role = 'owner'", "`role` must be"),
        ("weight = 0", "`weight` must be"),
        ("weight = 101", "from 1 to 100"),
        ("role = 'edge'\nweight = 2", "`weight` says nothing"),
        (
            "role = 'edge'\n[cache]\nnvme = '1GiB'",
            "an edge keeps copies, in memory alone",
        ),
        (
            "key_next = 'sixteen bytes, k'",
            "`key_next` is the `key` itself",
        ),
        ("key_next = 'short'", "`key_next` has 5 bytes"),
        ("advertise = '0.0.0.0'", "`advertise` names no address"),
        ("advertise = 'gw'", "`advertise` must be an IP address"),
        ("client_url = 'gw:7070'", "`client_url` must be http://"),
        (
            "client_url = 'http://u:p@gw'",
            "`client_url` must be http://",
        ),
        ("seeds = 'a:1'", "`seeds` must be a list"),
        ("seeds = ['a']", "a seed must be HOST:PORT"),
        ("seeds = ['dns:a']", "a seed must be HOST:PORT"),
        ("seeds = ['a:0']", "a seed must be HOST:PORT"),
        ("tls = 'yes'", "`tls` must be true or false"),
        ("seed = []", "did you mean `seeds`?"),
    ] {
        let mistake = mistake(&fleet(line));
        assert!(mistake.contains(part), "{line}: {mistake}");
    }
    let nothing = load("[fleet]", &Flags::default()).unwrap_err();
    assert_eq!(nothing.len(), 3, "{nothing:?}");
}
