//! Faults of the exported disk, put in by QMP while it is in use.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde_json::{Value, json};

/// A connection to the daemon's monitor.
#[derive(Debug)]
pub struct Faults {
    stream: BufReader<UnixStream>,
}

/// What fails with EIO.
#[derive(Clone, Copy, Debug)]
pub struct Eio {
    /// `read`, `write` or `flush`.
    pub on: &'static str,
    /// The first one alone; else all of them.
    pub once: bool,
}

impl Faults {
    /// Connects.
    pub fn new(monitor: &Path) -> Self {
        let stream = UnixStream::connect(monitor).expect("the daemon listens");
        let mut faults = Self { stream: BufReader::new(stream) };
        assert!(faults.line()["QMP"].is_object(), "a greeting");
        faults.execute("qmp_capabilities", &json!({}));
        faults
    }

    /// From now on requests fail, until the stack is built anew.
    pub fn inject(&mut self, eio: Eio) {
        let rule = json!({ "event": "none", "iotype": eio.on, "errno": 5, "once": eio.once });
        let node = json!({
            "driver": "blkdebug", "node-name": "fault", "image": "image", "inject-error": [rule],
        });
        self.execute("blockdev-add", &node);
        self.reopen("free", "fault");
    }

    /// From now on requests are as slow as the slow group allows, or as fast as they can be.
    pub fn throttle(&mut self, slow: bool) {
        self.reopen(if slow { "slow" } else { "free" }, "image");
    }

    fn reopen(&mut self, group: &str, file: &str) {
        let node = json!({
            "driver": "throttle", "node-name": "top", "throttle-group": group, "file": file,
        });
        self.execute("blockdev-reopen", &json!({ "options": [node] }));
    }

    fn execute(&mut self, command: &str, arguments: &Value) {
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(self.stream.get_mut(), "{request}").expect("the daemon runs");
        let answer = loop {
            let line = self.line();
            // Events come in between.
            if line["event"].is_null() {
                break line;
            }
        };
        assert!(answer["error"].is_null(), "{command}: {answer}");
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("the daemon answers");
        serde_json::from_str(&line).expect("JSON")
    }
}
