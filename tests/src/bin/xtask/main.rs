fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    if let ["relay", "--delay-ms", ms, host, port] = args[..] {
        deptool_tests::relay::run(std::time::Duration::from_millis(ms.parse().unwrap()), host, port.parse().unwrap())
            .unwrap();
    }
}
