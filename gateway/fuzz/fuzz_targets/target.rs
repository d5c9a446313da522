//! Hands what the fuzzer makes up to `forebay_gateway::fuzz::target`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| forebay_gateway::fuzz::target(bytes));
