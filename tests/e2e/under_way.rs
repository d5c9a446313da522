//! What is reloaded or purged while it is being asked for.

use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use forebay_tests::cluster::{Dataset, Setup};
use forebay_tests::http::{Connection, request};
use forebay_tests::oracle::{self, BLOCK, assert_bytes};
use forebay_tests::process::Signal;
use forebay_tests::servers::scripted::{Gate, Scripted, object};

use crate::stage::{appears, cached, directory, rewrite};

const SIZE: usize = 2 * BLOCK + 17;

/// An origin whose object has the bytes of `version`, under a tag that is the same for every version.
fn origin(version: u64, gate: Option<Arc<Gate>>) -> Scripted {
    let bytes = oracle::bytes("a.bin", version, SIZE);
    Scripted::start(move |asked| {
        if let Some(gate) = &gate {
            gate.pass();
        }
        object(asked, "\"the-same\"", "", &bytes)
    })
}

#[test]
fn an_answer_of_the_old_origin_is_not_taken_for_the_new_ones() {
    let (_files, path) = directory();
    let new = oracle::bytes("a.bin", 2, SIZE);
    for method in ["GET", "HEAD"] {
        let gate = Arc::new(Gate::default());
        let before = origin(1, Some(Arc::clone(&gate)));
        let after = origin(2, None);
        let models = |origin: &Scripted| {
            Dataset::new("models", format!("{}/", origin.url())).line("immutable = true")
        };
        let gateway = Setup::of([models(&before)]).allow("origin").start();
        let address = gateway.address();
        let early = thread::spawn(move || request(address, method, "/models/a.bin", &[]));
        gate.reached();
        let marker = Dataset::new("marker", path.clone());
        rewrite(&gateway, &Setup::of([models(&after), marker]));
        gateway.process().signal(Signal::HUP);
        appears(&gateway, "/marker/a.bin", 200);
        gate.open();
        // Whoever asked before the reload may have an answer of before it, or an error.
        let _ = early.join().expect("the early reader has its answer");
        for _ in 0..3 {
            let answer = gateway.get("/models/a.bin").expect(200);
            assert_bytes(method, &answer.body, &new);
        }
    }
}

#[test]
fn a_purge_takes_no_bytes_from_a_reader_and_the_next_read_has_none_of_them() {
    let bytes = |version| oracle::bytes("a.bin", version, SIZE);
    let gates = Arc::new([Gate::default(), Gate::default()]);
    let questions = Arc::new(AtomicUsize::new(0));
    let (doors, count) = (Arc::clone(&gates), Arc::clone(&questions));
    // The first question finds version 1, all later ones version 2; each answer stands still halfway. The tag is the
    // same, so that nothing but the purge tells the two apart.
    let origin = Scripted::speaking(move |asked, out| {
        let later = count.fetch_add(1, Ordering::SeqCst).min(1);
        let version = later as u64 + 1;
        let answer = object(asked, "\"the-same\"", "", &bytes(version));
        let half = answer.len() / 2;
        out.write_all(&answer[..half])?;
        doors[later].pass();
        out.write_all(&answer[half..])
    });
    let models = Dataset::new("models", format!("{}/", origin.url())).line("fresh_for = \"10m\"");
    let gateway = Setup::of([models]).start();
    let mut early = Connection::open(gateway.address());
    early.ask("GET", "/models/a.bin", &[]);
    assert_eq!(early.head().expect("an answer").status, 200);
    let mut body = early.read(BLOCK / 2);
    gates[0].reached();
    let _ = gateway
        .request("POST", "/-/purge/models/a.bin", &[("Content-Length", "0")])
        .expect(200);
    let mut next = Connection::open(gateway.address());
    next.ask("GET", "/models/a.bin", &[]);
    gates[1].reached();
    gates[0].open();
    body.extend(early.read(SIZE - body.len()));
    assert_bytes("the early reader", &body, &bytes(1));
    gates[1].open();
    let answer = next.answer(false).expect("an answer").expect(200);
    assert_bytes("the next reader", &answer.body, &bytes(2));
    cached(&gateway, SIZE);
    let asked = questions.load(Ordering::SeqCst);
    let last = gateway.get("/models/a.bin").expect(200);
    assert_bytes("the last reader", &last.body, &bytes(2));
    assert_eq!(questions.load(Ordering::SeqCst), asked, "it was cached");
}
