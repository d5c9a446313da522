//! Hands what the fuzzer makes up to `forebay_storage::fuzz::list_xml`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| forebay_storage::fuzz::list_xml(bytes));
