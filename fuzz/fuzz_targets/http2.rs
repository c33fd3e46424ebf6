#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| seawall_fuzz::http2(bytes));
