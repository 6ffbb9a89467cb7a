//! `nepa watch`: what the server answers, to whom, and while a run goes on.

use crate::common::{Folder, Running};
use serde_json::Value;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::{Duration, Instant};

/// A server under way.
struct Server {
    running: Running,
    port: u16,
    token: Option<String>,
}

/// An answer: status, headers, body.
struct Answer {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Answer {
    #[track_caller]
    fn json(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text());
        serde_json::from_slice(&self.body).unwrap()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// It is refused, with these words.
    #[track_caller]
    fn refuses(&self, status: u16, piece: &str) {
        assert!(self.status == status && self.text().contains(piece), "{} {}", self.status, self.text());
    }
}

impl Server {
    fn start(folder: &Folder, args: &[&str]) -> Self {
        let running = folder.start(&[&["watch"], args].concat(), &[]);
        let line = running.line();
        let (_, address) = line.split_once("http://").unwrap_or_else(|| panic!("no address: {line}"));
        let (place, query) = address.split_once('/').unwrap();
        let port = place.rsplit_once(':').unwrap().1.parse().unwrap();
        Self { running, port, token: query.strip_prefix("?token=").map(String::from) }
    }

    /// What an answer to these lines of a request is.
    fn send(&self, lines: &[&str]) -> Answer {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        stream.write_all(format!("{}\r\nConnection: close\r\n\r\n", lines.join("\r\n")).as_bytes()).unwrap();
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        let end = all.windows(4).position(|w| w == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(all[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, head, body: all[end + 4..].to_vec() }
    }

    fn get(&self, path: &str) -> Answer {
        self.send(&[&format!("GET {path} HTTP/1.1"), "Host: localhost"])
    }

    /// Lines of a file of a run that came after what `known` says.
    fn lines(&self, run: &str, file: &str, known: &Value) -> Value {
        let id = known["id"].as_str().unwrap_or_default();
        let bytes = known["bytes"].as_u64().unwrap_or(0);
        self.get(&format!("/api/lines?run={run}&file={file}&id={id}&bytes={bytes}")).json()
    }

    /// Ends it with Ctrl-C.
    fn end(self) {
        self.running.signal(libc::SIGINT);
        self.running.finish().fails(130);
    }
}

/// A finished run in runs/a, with two phases, a picture of each kind, and a result.
fn finished(folder: &Folder) {
    let script = r#"
        for i in 1..6 { run::log(#{ phase: "p", step: i, seconds: i * 1.0, loss: 1.0 / i }); }
        run::log(#{ phase: "end <b>", top1: 0.5 });
        warn("look <script>here</script>");
        #{ accuracy: 0.75 }"#;
    folder.run_with(&script.replace("warn(", "print(\"warning: \" + "), &["--out", "runs/a"]).succeeds();
    folder.write("runs/a/plot.png", b"\x89PNG\r\n\x1a\nand so on");
    folder.write("runs/a/drawn/plot.svg", "<svg xmlns='http://www.w3.org/2000/svg'><script>1</script></svg>");
    folder.write("runs/a/no.png", "<html>");
}

#[test]
fn a_page_needs_nothing_but_its_own_files() {
    let folder = Folder::new();
    finished(&folder);
    let server = Server::start(&folder, &["runs"]);
    let page = server.get("/");
    assert_eq!(page.status, 200);
    for header in [
        "Content-Security-Policy: default-src 'none'; script-src 'self'; style-src 'self';",
        "X-Content-Type-Options: nosniff",
        "Referrer-Policy: no-referrer",
        "Content-Type: text/html",
    ] {
        assert!(page.head.contains(header), "{header}: {}", page.head);
    }
    // All that it names is there, and lies here.
    let text = page.text();
    let named = text.split(['"', '\'']).filter(|word| word.ends_with(".css") || word.ends_with(".js"));
    let named: Vec<&str> = named.collect();
    assert!(named.len() >= 5, "{named:?}");
    for name in named {
        let file = server.get(&format!("/{name}"));
        assert!(file.status == 200 && !name.contains("//"), "{name}");
        assert!(!file.text().contains("import(") && !file.text().contains("@import"), "{name}");
    }
    for module in ["store.js", "charts.js"] {
        assert!(server.get(&format!("/{module}")).head.contains("Content-Type: text/javascript"), "{module}");
    }
    server.end();
}

#[test]
fn a_finished_run_is_shown_whole() {
    let folder = Folder::new();
    finished(&folder);
    let server = Server::start(&folder, &["runs", "--port", "0"]);
    let list = server.get("/api/runs").json();
    assert_eq!(list["is_run"], false);
    assert_eq!(list["runs"].as_array().unwrap().len(), 1);
    assert_eq!((&list["runs"][0]["name"], &list["runs"][0]["state"]), (&"a".into(), &"finished".into()));
    let details = server.get("/api/run?run=a").json();
    // Five steps in as many seconds, of a loop that does not say how many it makes.
    let progress = &details["progress"];
    assert_eq!((&progress["step"], &progress["steps_per_second"]), (&5.into(), &1.0.into()));
    assert_eq!(progress["seconds_left"], Value::Null);
    let mut names: Vec<&str> =
        details["pictures"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["drawn/plot.svg", "no.png", "plot.png"]);

    let all = server.lines("a", "metrics.jsonl", &Value::Null);
    assert_eq!(all["text"].as_str().unwrap(), folder.text("runs/a/metrics.jsonl"));
    let none = server.lines("a", "metrics.jsonl", &all);
    assert_eq!((&none["text"], &none["anew"], &none["bytes"]), (&"".into(), &false.into(), &all["bytes"]));
    let log = server.get("/api/lines?run=a&file=run.log&last=200").json();
    assert!(log["text"].as_str().unwrap().ends_with("finished\n"), "{log}");
    assert!(!log["text"].as_str().unwrap().contains("started:"), "the beginning is left out: {log}");

    // What the page shows of the report is a part of it; the report is that of the command.
    let sections = server.get("/api/sections?run=a").text();
    assert!(sections.contains("<h2>Parameters</h2>") && sections.contains("accuracy"), "{sections}");
    assert!(!sections.contains("<h2>Curves</h2>") && !sections.contains("<script"), "{sections}");
    let report = server.get("/report?run=a");
    folder.nepa(&["report", "runs/a"]).succeeds();
    assert_eq!(report.text(), folder.text("runs/a/report.html"));
    for section in sections.split("<section>").skip(1) {
        assert!(report.text().contains(section), "{section}");
    }
    assert!(report.head.contains("Content-Security-Policy: default-src 'none'; img-src data:"), "{}", report.head);

    let picture = server.get("/picture?run=a&file=plot.png");
    assert!(picture.head.contains("Content-Type: image/png") && picture.body == folder.read("runs/a/plot.png"));
    let drawn = server.get("/picture?run=a&file=drawn%2Fplot.svg");
    assert!(drawn.head.contains("image/svg+xml") && drawn.head.contains("sandbox"), "{}", drawn.head);
    server.get("/picture?run=a&file=no.png").refuses(404, "there is no file");
    server.end();

    // A run directory itself.
    let server = Server::start(&folder, &["runs/a"]);
    let list = server.get("/api/runs").json();
    assert_eq!((&list["is_run"], &list["runs"][0]["name"]), (&true.into(), &"a".into()));
    assert_eq!(server.get("/api/run?run=a").status, 200);
    server.end();
}

#[test]
fn a_run_is_followed_while_it_goes_on_and_when_it_returns_to_a_checkpoint() {
    let folder = Folder::new();
    std::fs::create_dir(folder.path("runs")).unwrap();
    let server = Server::start(&folder, &["runs"]);
    assert_eq!(server.get("/api/runs").json()["runs"], Value::Array(Vec::new()));
    folder.write(
        "recipe.rhai",
        "for i in 1..400 { run::log(#{ phase: \"p\", step: i, seconds: i * 0.5 }); if i == 3 { print(\"three\"); } sleep(0.02); }",
    );
    let args = ["run", "recipe.rhai", "--device", "cpu", "--threads", "1", "--out", "runs/s/1"];
    let run = folder.start(&args, &[]);
    run.wait_for("three");
    let list = server.get("/api/runs").json();
    let brief = &list["runs"][0];
    assert_eq!((&brief["name"], &brief["live"], &brief["state"]), (&"s/1".into(), &true.into(), &"running".into()));
    assert_eq!(brief["progress"]["steps_per_second"], 2.0);
    // Whole lines, each once, whenever one asks.
    let (mut known, mut text) = (Value::Null, String::new());
    let limit = Instant::now() + Duration::from_secs(30);
    while text.lines().count() < 20 {
        assert!(Instant::now() < limit, "{text}");
        known = server.lines("s%2F1", "metrics.jsonl", &known);
        text += known["text"].as_str().unwrap();
        assert!(text.is_empty() || text.ends_with('\n'));
    }
    run.signal(libc::SIGINT);
    run.finish().fails(130);
    text += server.lines("s%2F1", "metrics.jsonl", &known)["text"].as_str().unwrap();
    assert_eq!(text, folder.text("runs/s/1/metrics.jsonl"));
    assert_eq!(server.get("/api/run?run=s%2F1").json()["state"], "interrupted");
    // As at a resumption: another file, that is shorter, and later one that is longer.
    let first: String = text.split_inclusive('\n').take(2).collect();
    for more in ["", &text] {
        folder.write("new", format!("{first}{more}"));
        std::fs::rename(folder.path("new"), folder.path("runs/s/1/metrics.jsonl")).unwrap();
        let part = server.lines("s%2F1", "metrics.jsonl", &known);
        assert_eq!((&part["anew"], part["text"].as_str().unwrap()), (&true.into(), &*format!("{first}{more}")));
        known = part;
    }
    // A line that is being written comes when it is whole.
    let mut file = std::fs::File::options().append(true).open(folder.path("runs/s/1/metrics.jsonl")).unwrap();
    file.write_all(b"{\"step\":").unwrap();
    assert_eq!(server.lines("s%2F1", "metrics.jsonl", &known)["text"], "");
    file.write_all(b"1}\n").unwrap();
    assert_eq!(server.lines("s%2F1", "metrics.jsonl", &known)["text"], "{\"step\":1}\n");
    server.end();
}

#[test]
fn nothing_else_is_answered_and_nobody_else() {
    let folder = Folder::new();
    finished(&folder);
    folder.write("secret", "secret");
    folder.write("out/run.json", "{}");
    symlink("../out", folder.path("runs/link")).unwrap();
    symlink("../../secret", folder.path("runs/a/link.png")).unwrap();
    symlink("../../secret", folder.path("runs/a/system.jsonl")).unwrap();
    let server = Server::start(&folder, &["runs"]);
    let names = server.get("/api/runs").json();
    assert_eq!(names["runs"].as_array().unwrap().len(), 1, "{names}");
    for run in ["..%2Fout", "link", "%2Fetc", "a%2F..%2Fa", "", "%252e%252e", "a%00", ".", "a%2F..%2F..%2Fout"] {
        server.get(&format!("/api/run?run={run}")).refuses(404, "there is no run");
    }
    for file in ["run.json", "..%2F..%2Fsecret", "recipe.rhai", "%2Fetc%2Fpasswd", "metrics.jsonl%2F..", "link.png"] {
        server.get(&format!("/api/lines?run=a&file={file}")).refuses(404, "there is no file");
        server.get(&format!("/picture?run=a&file={file}")).refuses(404, "there is no file");
    }
    server.get("/api/lines?run=a&file=system.jsonl").refuses(500, "leads out of the run directory");
    for path in ["/secret", "/../secret", "/%2e%2e/secret", "/runs/a/run.json", "//", "/api", "/page.html"] {
        server.get(path).refuses(404, "nothing at this address");
    }
    for method in ["POST", "PUT", "DELETE", "HEAD", "OPTIONS"] {
        let answer = server.send(&[&format!("{method} /api/runs HTTP/1.1"), "Host: localhost"]);
        assert!(answer.status == 405 && answer.head.contains("Allow: GET"), "{method}: {}", answer.head);
    }
    // Names that another site could have, which lead here.
    for host in ["evil.example", "localhost.evil.example", "127.0.0.1.evil.example:80", "192.168.0.1", ""] {
        let answer = server.send(&["GET /api/runs HTTP/1.1", &format!("Host: {host}")]);
        answer.refuses(403, "this page is for this machine alone");
    }
    server.send(&["GET / HTTP/1.1", "X: y"]).refuses(403, "this page is for this machine alone");
    for host in ["LOCALHOST:80", "127.0.0.1:1", "[::1]:8080", "127.1.2.3"] {
        assert_eq!(server.send(&["GET / HTTP/1.1", &format!("Host: {host}")]).status, 200, "{host}");
    }
    assert_eq!(server.send(&["nonsense"]).status, 400);
    server.end();
}

#[test]
fn others_need_the_token() {
    let folder = Folder::new();
    finished(&folder);
    let server = Server::start(&folder, &["runs", "--host", "0.0.0.0"]);
    let token = server.token.clone().expect("a token in the address");
    assert!(token.len() == 32 && token.bytes().all(|b| b.is_ascii_hexdigit()), "{token}");
    let wrong = format!("{}0", &token[..31]);
    let wrong = if wrong == token { format!("{}1", &token[..31]) } else { wrong };
    let cookie = format!("Cookie: nepa_watch_{}", server.port);
    for path in ["/", "/page.js", "/api/runs", "/picture?run=a&file=plot.png", "/report?run=a"] {
        let and = if path.contains('?') { '&' } else { '?' };
        for query in
            [String::new(), format!("{and}token={wrong}"), format!("{and}token="), format!("{and}token={token}0")]
        {
            server.get(&format!("{path}{query}")).refuses(403, "the address lacks the token");
        }
        server.send(&[&format!("GET {path} HTTP/1.1"), "Host: x", &format!("{cookie}={wrong}")]).refuses(403, "token");
        let kept = server.send(&[&format!("GET {path} HTTP/1.1"), "Host: any", &format!("{cookie}={token}; a=b")]);
        assert_eq!((kept.status, server.get(&format!("{path}{and}token={token}")).status), (200, 200), "{path}");
    }
    let page = server.get(&format!("/?token={token}"));
    assert!(
        page.head.contains(&format!("nepa_watch_{}={token}; HttpOnly; SameSite=Strict", server.port)),
        "{}",
        page.head
    );
    server.end();
}

#[test]
fn what_keeps_it_from_starting_is_told() {
    let folder = Folder::new();
    finished(&folder);
    folder.nepa(&["watch", "run"]).fails(1).says(&["run does not exist", "did you mean ./runs?"]);
    folder.nepa(&["watch", "recipe.rhai"]).fails(1).says(&["recipe.rhai is a file", "give the folder"]);
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    folder
        .nepa(&["watch", "runs", "--port", &port])
        .fails(1)
        .says(&[&format!("port {port} of 127.0.0.1 is in use by another program"), "give another --port, or none"]);
    folder.nepa(&["watch", "runs", "--host", "203.0.113.1"]).fails(1).says(&["this machine has no such address"]);
    folder.nepa(&["watch", "runs", "--port", "70000"]).fails(2).says(&["70000 is not in 0..=65535"]);
}

#[test]
fn a_broken_run_is_told_and_hides_no_other() {
    let folder = Folder::new();
    finished(&folder);
    folder.write("runs/b/run.json", "{");
    let server = Server::start(&folder, &["runs"]);
    let list = server.get("/api/runs").json();
    assert_eq!(list["runs"].as_array().unwrap().len(), 2);
    assert!(list["runs"][1]["error"].as_str().unwrap().contains("run.json"), "{list}");
    server.get("/api/run?run=b").refuses(500, "run.json");
    server.end();
}

#[test]
fn a_browser_draws_it() {
    let Some(browser) = ["chromium", "chromium-browser", "google-chrome"]
        .into_iter()
        .find(|name| Command::new(name).arg("--version").output().is_ok_and(|said| said.status.success()))
    else {
        println!("skipped: there is no Chromium");
        return;
    };
    let folder = Folder::new();
    finished(&folder);
    let server = Server::start(&folder, &["runs"]);
    let profile = format!("--user-data-dir={}", folder.path("profile").display());
    let shown = |hash: &str| {
        let address = format!("http://127.0.0.1:{}/{hash}", server.port);
        let mut command = Command::new(browser);
        command.args(["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=4000", "--dump-dom"]);
        let said = command.args([&profile, &address]).output().unwrap();
        String::from_utf8_lossy(&said.stdout).into_owned()
    };
    let list = shown("");
    assert!(list.contains("1 run in runs") && list.contains("<td>finished</td>"), "{list}");
    let page = shown("#run=a");
    assert_eq!(page.matches("<canvas").count(), 1, "{page}");
    for piece in ["<b>loss</b>", "0.2</span>", "end &lt;b&gt;", "<h2>Parameters</h2>", "---- finished", "plot.svg"] {
        assert!(page.contains(piece), "{piece}: {page}");
    }
    assert!(page.contains("<p id=\"away\" role=\"status\" hidden"), "an error is told: {page}");
    server.end();
}
