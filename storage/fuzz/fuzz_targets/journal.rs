//! Hands what the fuzzer makes up to `forebay_storage::fuzz::journal`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| forebay_storage::fuzz::journal(bytes));
