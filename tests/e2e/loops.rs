//! Origins that are the gateway itself.

use std::time::{Duration, Instant};

use forebay_tests::cluster::{Dataset, Setup, command};
use forebay_tests::process::{Process, Signal};
use forebay_tests::scratch::Scratch;
use forebay_tests::servers::free_address;

use crate::stage::{appears, assert_sentence, directory, rewrite};

#[test]
fn an_origin_at_our_own_port_is_refused_by_serve_and_check() {
    let address = free_address();
    let port = address.port();
    let plain = Dataset::new("looped", format!("http://localhost:{port}/models/"));
    let s3 = Dataset::new("looped", "s3://models")
        .option("aws_endpoint", format!("http://localhost:{port}"))
        .option("aws_region", "us-east-1")
        .option("aws_skip_signature", "true");
    let literal = Dataset::new("looped", format!("http://{address}/models/"));
    let (_files, path) = directory();
    for dataset in [plain, s3, literal] {
        let scratch = Scratch::new("loop");
        let text = Setup::of([Dataset::new("models", path.clone()), dataset]).text(scratch.path());
        let text = text.replace("127.0.0.1:0", &address.to_string());
        let config = scratch.write("forebay.toml", text);
        for verb in ["serve", "check"] {
            let mut command = command();
            command.arg(verb).arg("--config").arg(&config);
            let mut process = Process::start("forebay", &mut command);
            let status = process.wait(Duration::from_secs(10));
            let said = process.stderr();
            assert_eq!(status.code(), Some(2), "{verb}: {said}");
            assert!(
                said.contains("looped") && said.contains("this gateway itself"),
                "{verb}: {said}"
            );
            assert!(!process.stdout().contains("listening"), "{verb}");
        }
    }
}

#[test]
fn an_origin_that_turns_out_to_be_us_is_a_502_at_once() {
    let (_files, path) = directory();
    let gateway = Setup::of([Dataset::new("models", path.clone())])
        .allow("origin")
        .start();
    // The port was 0 in the settings, so only now an origin can name it.
    let address = gateway.address();
    let port = address.port();
    let itself = Dataset::new("itself", format!("http://{address}/itself/"));
    let other = Dataset::new("other", format!("http://localhost:{port}/models/"));
    rewrite(
        &gateway,
        &Setup::of([Dataset::new("models", path), itself, other]),
    );
    gateway.process().signal(Signal::HUP);
    appears(&gateway, "/itself/first.bin", 502);
    for dataset in ["itself", "other"] {
        let begun = Instant::now();
        let answer = gateway.get(&format!("/{dataset}/a.bin"));
        assert_sentence(&gateway, &answer, &[502]);
        let took = begun.elapsed();
        assert!(took < Duration::from_secs(3), "{dataset}: {took:?}");
    }
    let _ = gateway.get("/models/a.bin").expect(200);
}
