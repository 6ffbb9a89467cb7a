//! Answers to requests, with the headers that keep a browser from doing more with them than the page needs.

use super::page::POLICY;
use crate::error::{hint_of, one_line};
use crate::text::visible;
use http_body_util::Full;
use hyper::Response;
use hyper::body::Bytes;
use serde_json::{Value, json};

/// An answer.
pub struct Answer {
    status: u16,
    kind: &'static str,
    body: Vec<u8>,
    policy: &'static str,
    more: Vec<(&'static str, String)>,
}

impl Answer {
    /// Something of a type, such as image/png.
    pub fn new(kind: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self { status: 200, kind, body: body.into(), policy: POLICY, more: Vec::new() }
    }

    /// JSON.
    pub fn json(value: &Value) -> Self {
        Self::new("application/json", value.to_string())
    }

    /// A refusal, in words.
    pub fn refused(status: u16, why: &str) -> Self {
        Self { status, ..Self::json(&json!({ "error": visible(why) })) }
    }

    /// An error of a run's files, with what to do.
    pub fn error(error: &anyhow::Error) -> Self {
        let hint = hint_of(error).map(|hint| visible(&hint).into_owned());
        Self { status: 500, ..Self::json(&json!({ "error": visible(&one_line(error)), "hint": hint })) }
    }

    /// With another content security policy than the page's.
    pub fn policy(self, policy: &'static str) -> Self {
        Self { policy, ..self }
    }

    /// With another header.
    pub fn header(mut self, name: &'static str, value: String) -> Self {
        self.more.push((name, value));
        self
    }

    /// As the server sends it.
    pub fn response(self) -> Response<Full<Bytes>> {
        let fixed = [
            ("Content-Type", self.kind),
            ("Content-Security-Policy", self.policy),
            ("X-Content-Type-Options", "nosniff"),
            ("Cross-Origin-Resource-Policy", "same-origin"),
            ("Cross-Origin-Opener-Policy", "same-origin"),
            ("Referrer-Policy", "no-referrer"),
            ("Cache-Control", "no-store"),
        ];
        let mut response = Response::builder().status(self.status);
        for (name, value) in fixed.into_iter().chain(self.more.iter().map(|(name, value)| (*name, value.as_str()))) {
            response = response.header(name, value);
        }
        response.body(self.body.into()).expect("names and values are this program's own, which a header can hold")
    }
}
