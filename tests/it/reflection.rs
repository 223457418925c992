//! The gRPC surface, driven by Python's grpcio through server reflection, without generated code.
//!
//! `CHRONOSDB_TEST_PYTHON` names a python that has grpcio, grpcio-reflection and protobuf; else
//! `python3` if it has them; else the test says that it is skipped, and why.

use std::process::{Command, Stdio};

use crate::server::{Setup, place, program};
use crate::wait::until;

const MODULES: &str = "import grpc, grpc_reflection.v1alpha, google.protobuf";
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/python/reflect.py");

/// A python with all modules, or why there is none.
fn python() -> Result<String, String> {
    let named = std::env::var("CHRONOSDB_TEST_PYTHON").ok();
    let python = named.clone().unwrap_or_else(|| "python3".to_owned());
    let tried = Command::new(&python).args(["-c", MODULES]).stdin(Stdio::null()).output();
    match tried {
        Ok(output) if output.status.success() => Ok(python),
        Ok(output) => {
            let why = String::from_utf8_lossy(&output.stderr);
            let why = format!("{python} lacks modules: {}", why.lines().last().unwrap_or_default());
            // Whoever names one wants the test.
            assert!(named.is_none(), "CHRONOSDB_TEST_PYTHON: {why}");
            Err(why)
        }
        Err(error) => {
            assert!(named.is_none(), "CHRONOSDB_TEST_PYTHON: {python}: {error}");
            Err(format!("{python}: {error}"))
        }
    }
}

#[test]
fn the_grpc_surface_by_python_and_reflection() {
    let python = match python() {
        Ok(python) => python,
        Err(why) => {
            println!("skipped: {why}; pip install grpcio grpcio-reflection protobuf");
            return;
        }
    };
    let place = place();
    let setup = Setup::new(&place.path().join("data")).with("--retry-backoff", "1ms");
    let server = setup.start();
    let mut child = Command::new(python)
        .args([SCRIPT, &server.grpc.to_string(), "4"])
        .stdin(Stdio::null())
        .spawn()
        .expect("it ran before");
    let status = until("the end of the script", || child.try_wait().expect("it is our child"));
    assert!(status.success(), "{status}: see what it printed");
    server.stop();
}

#[test]
fn reflection_can_be_off() {
    let Ok(python) = python() else {
        println!("skipped: no python with grpcio");
        return;
    };
    let place = place();
    let server = Setup::new(&place.path().join("data")).with("--reflection", "off").start();
    let output = Command::new(python)
        .args([SCRIPT, &server.grpc.to_string(), "no-reflection"])
        .output()
        .expect("it ran before");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // The program itself needs none.
    let address = server.native.to_string();
    let partitions = program(&["partitions", "--addr", &address]).output().expect("built");
    assert!(partitions.status.success());
    server.stop();
}
