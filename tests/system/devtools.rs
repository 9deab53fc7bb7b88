//! A headless Chromium, driven over its DevTools pipe. It needs no driver and opens no socket.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use serde_json::{Value, json};

use super::harness::{eventually, skip};

const NAMES: [&str; 3] = ["chromium", "chromium-browser", "google-chrome"];

/// No network, an empty profile, and no sandbox, since containers do not allow one.
const FLAGS: [&str; 11] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--remote-debugging-pipe",
];

/// The browser named by `TAGFLOW_BROWSER`, or found on the search path. Without one, `tests` are
/// reported as skipped.
pub(crate) fn browser(tests: usize) -> Option<PathBuf> {
    let found = match std::env::var_os("TAGFLOW_BROWSER") {
        Some(named) => Some(PathBuf::from(named)),
        None => on_path(),
    };
    if found.is_none() {
        assert!(std::env::var_os("TAGFLOW_REQUIRE_BROWSER").is_none(), "no chromium found");
        skip(tests, "browser: no chromium found");
    }
    found
}

fn on_path() -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let files = NAMES.iter().flat_map(|name| folders.iter().map(move |f| f.join(name)));
    files.into_iter().find(|file| file.is_file())
}

/// One tab of a browser that is closed when the test ends.
pub(crate) struct Tab {
    browser: Child,
    commands: ChildStdin,
    messages: Receiver<Value>,
    session: String,
    last_id: u64,
    events: VecDeque<Value>,
    /// Errors from the page's console, its security policy and its requests.
    pub(crate) complaints: Vec<String>,
}

impl Tab {
    /// Starts `browser` with its profile in `folder`.
    pub(crate) fn open(browser: &Path, folder: &Path) -> Self {
        // The browser reads commands from descriptor 3 and writes to 4.
        let mut child = Command::new("sh")
            .args(["-c", "exec \"$0\" \"$@\" 3<&0 4>&1 </dev/null >/dev/null 2>&1"])
            .arg(browser)
            .args(FLAGS)
            .arg(format!("--user-data-dir={}", folder.join("profile").display()))
            .arg("about:blank")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let commands = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let (send, messages) = channel();
        std::thread::spawn(move || {
            for message in output.split(0).map_while(Result::ok) {
                if send.send(serde_json::from_slice(&message).unwrap()).is_err() {
                    break;
                }
            }
        });
        let mut tab = Self {
            browser: child,
            commands,
            messages,
            session: String::new(),
            last_id: 0,
            events: VecDeque::new(),
            complaints: Vec::new(),
        };
        let target = tab.call("Target.createTarget", &json!({"url": "about:blank"}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = tab.call("Target.attachToTarget", &attach);
        attached["sessionId"].as_str().unwrap().clone_into(&mut tab.session);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            tab.call(&format!("{domain}.enable"), &json!({}));
        }
        tab.call("Page.setLifecycleEventsEnabled", &json!({"enabled": true}));
        tab
    }

    /// Loads `url` completely.
    pub(crate) fn load(&mut self, url: &str) {
        let loaded = self.call("Page.navigate", &json!({"url": url}));
        assert!(loaded["errorText"].is_null(), "{url}: {loaded}");
        // The previous page may just have refreshed: that load is not this one.
        self.wait_for(url, |event| {
            let params = &event["params"];
            params["loaderId"] == loaded["loaderId"] && params["name"] == "load"
        });
    }

    /// Waits until the page has refreshed.
    pub(crate) fn renewed(&mut self) {
        self.wait_for("the page again", |event| event["method"] == "Page.loadEventFired");
    }

    /// Waits for the next event of this name.
    fn wait_for(&mut self, what: &str, is_it: impl Fn(&Value) -> bool) {
        eventually(what, || {
            while let Some(seen) = self.events.pop_front() {
                if is_it(&seen) {
                    return Some(());
                }
            }
            self.receive(Duration::from_millis(50));
            None
        });
    }

    /// Evaluates a JavaScript expression, once the page is complete and until the value is not
    /// null.
    pub(crate) fn eval(&mut self, expression: &str) -> Value {
        let whole = format!("document.readyState == 'complete' ? ({expression}) : null");
        let ask = json!({"expression": whole, "returnByValue": true});
        eventually(expression, || {
            // A page that refreshes meanwhile loses the request.
            let mut answer = self.ask("Runtime.evaluate", &ask);
            assert!(answer["result"]["exceptionDetails"].is_null(), "{expression}: {answer}");
            Some(answer["result"]["result"]["value"].take()).filter(|value| !value.is_null())
        })
    }

    /// Sets the size of the page's screen.
    pub(crate) fn resize(&mut self, width: u32, height: u32) {
        let screen =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": true});
        self.call("Emulation.setDeviceMetricsOverride", &screen);
    }

    fn call(&mut self, method: &str, params: &Value) -> Value {
        let mut answer = self.ask(method, params);
        assert!(answer["error"].is_null(), "{method}: {answer}");
        answer["result"].take()
    }

    fn ask(&mut self, method: &str, params: &Value) -> Value {
        self.last_id += 1;
        let id = self.last_id;
        let mut message = json!({"id": id, "method": method, "params": params});
        if !self.session.is_empty() {
            message["sessionId"] = self.session.clone().into();
        }
        self.commands.write_all(format!("{message}\0").as_bytes()).unwrap();
        eventually(method, || {
            self.receive(Duration::from_millis(50)).filter(|answer| answer["id"] == id)
        })
    }

    /// The next answer. Events are kept for `wait_for`.
    fn receive(&mut self, wait: Duration) -> Option<Value> {
        let message = self.messages.recv_timeout(wait).ok()?;
        if message["id"].is_u64() {
            return Some(message);
        }
        self.judge(&message);
        self.events.push_back(message);
        None
    }

    fn judge(&mut self, event: &Value) {
        let params = &event["params"];
        let bad = match event["method"].as_str().unwrap_or_default() {
            "Runtime.exceptionThrown" | "Runtime.consoleAPICalled" => true,
            // A page that is left or refreshed cancels what it was loading.
            "Network.loadingFailed" => params["canceled"] != true,
            "Log.entryAdded" => params["entry"]["level"] != "verbose",
            "Network.responseReceived" => {
                params["response"]["status"].as_u64().is_some_and(|status| status >= 400)
            }
            _ => false,
        };
        if bad {
            self.complaints.push(event.to_string());
        }
    }
}

impl Drop for Tab {
    fn drop(&mut self) {
        // A browser that is asked to close ends its child processes; one that is killed leaves
        // them.
        let _ = self.commands.write_all(b"{\"id\":0,\"method\":\"Browser.close\"}\0");
        let ended = (0..500).any(|_| {
            std::thread::park_timeout(Duration::from_millis(10));
            matches!(self.browser.try_wait(), Ok(Some(_)))
        });
        if !ended {
            let _ = self.browser.kill();
            let _ = self.browser.wait();
        }
    }
}
