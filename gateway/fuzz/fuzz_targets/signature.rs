//! Hands what the fuzzer makes up to `forebay_gateway::fuzz::signature`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| forebay_gateway::fuzz::signature(bytes));
