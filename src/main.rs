//! `portcullis`: parse, call, exit code.

fn main() -> std::process::ExitCode {
    portcullis::cli::main()
}
