//! Signing: HMAC-SHA256 over time, key and body.

use hmac::{Hmac, KeyInit as _, Mac as _};
use redrive::Context;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use sha2::Sha256;

use super::headers;
use crate::failure::Failure;

/// The header that carries the signature.
pub(super) const HEADER: HeaderName = HeaderName::from_static("redrive-signature");

/// The least bytes of a secret.
const SHORTEST: usize = 16;

/// How many secrets may sign at once: the new one and the old one.
const MOST: usize = 2;

/// The secrets that sign, by which a receiver knows who sent a message.
pub(super) struct Secrets {
    keyed: Vec<Hmac<Sha256>>,
}

impl Secrets {
    /// The secrets in these environment variables.
    pub(super) fn read(variables: &[String], environment: impl Fn(&str) -> Option<String>) -> Result<Self, Failure> {
        if variables.len() > MOST {
            return Err(Failure::usage(format_args!(
                "--sign-secret-env is given {} times; two are enough to change a secret",
                variables.len()
            )));
        }
        let mut keyed = Vec::new();
        for variable in variables {
            let wrong = |why: &str| {
                Failure::usage(format_args!("--sign-secret-env: `{}` {why}", crate::ui::safe(variable)))
                    .remedy("put a random text of at least 16 bytes there, such as `openssl rand -hex 32` prints")
            };
            let secret = environment(variable).ok_or_else(|| wrong("is not set in the environment"))?;
            if secret.len() < SHORTEST {
                return Err(wrong("holds a secret that is too short to be safe"));
            }
            if secret.trim() != secret {
                return Err(wrong(
                    "holds a secret with white space around it, which receivers rarely mean to use",
                ));
            }
            keyed.push(Hmac::new_from_slice(secret.as_bytes()).map_err(|_| wrong("holds no usable secret"))?);
        }
        Ok(Self { keyed })
    }

    /// The signature of a message that is sent at `now` (seconds since 1970) with these headers.
    pub(super) fn sign(&self, now: u64, sent: &HeaderMap, context: &Context) -> Option<HeaderValue> {
        let key = sent.get(headers::KEY).map_or(&b""[..], HeaderValue::as_bytes);
        self.signature(now, key, context.message().body.as_bytes())
    }

    fn signature(&self, now: u64, key: &[u8], body: &[u8]) -> Option<HeaderValue> {
        if self.keyed.is_empty() {
            return None;
        }
        let mut value = format!("t={now}");
        for keyed in &self.keyed {
            let mut mac = keyed.clone();
            // Neither time nor key can hold a line end, so no two messages are signed as the same bytes.
            mac.update(format!("{now}\n").as_bytes());
            mac.update(key);
            mac.update(b"\n");
            mac.update(body);
            value.push_str(",v1=");
            for byte in mac.finalize().into_bytes() {
                value.push_str(&format!("{byte:02x}"));
            }
        }
        HeaderValue::from_str(&value).ok()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "tests")]
mod tests {
    use super::*;

    fn secrets(variables: &[&str]) -> Result<Secrets, Failure> {
        let variables: Vec<String> = variables.iter().map(|name| (*name).to_owned()).collect();
        Secrets::read(&variables, |name| {
            let secret = match name {
                "NEW" => "0123456789abcdef0123456789abcdef",
                "OLD" => "fedcba9876543210fedcba9876543210",
                "SHORT" => "hunter2",
                "LINE" => "0123456789abcdef0123456789abcdef\n",
                _ => return None,
            };
            Some(secret.to_owned())
        })
    }

    #[test]
    fn a_signature_is_what_any_hmac_program_makes_of_time_key_and_body() {
        // printf '1700000000\norder-7\n{"a":1}' | openssl dgst -sha256 -hmac 0123456789abcdef0123456789abcdef
        let signed = secrets(&["NEW"])
            .unwrap()
            .signature(1_700_000_000, b"order-7", b"{\"a\":1}");
        assert_eq!(
            signed.unwrap(),
            "t=1700000000,v1=a33a20c2a98d2d6bf2e22acea197dd23a04c6eae3313bdc5d0cbd82fd820cb84"
        );
        assert!(secrets(&[]).unwrap().signature(1, b"k", b"").is_none());
    }

    #[test]
    fn two_secrets_sign_while_one_replaces_the_other() {
        let both = secrets(&["NEW", "OLD"]).unwrap().signature(7, b"k", b"b").unwrap();
        let both = both.to_str().unwrap().to_owned();
        for one in ["NEW", "OLD"] {
            let alone = secrets(&[one]).unwrap().signature(7, b"k", b"b").unwrap();
            let v1 = alone.to_str().unwrap().split(',').nth(1).unwrap().to_owned();
            assert!(both.contains(&v1), "{both} {v1}");
        }
    }

    #[test]
    fn inv12_a_secret_that_is_missing_or_weak_is_refused_and_never_shown() {
        for (variable, why) in [("MISSING", "not set"), ("SHORT", "too short"), ("LINE", "white space")] {
            let error = secrets(&[variable]).err().unwrap().to_string();
            assert!(error.contains(why) && error.contains(variable), "{error}");
            assert!(!error.contains("hunter2") && !error.contains("0123"), "{error}");
        }
        assert!(secrets(&["NEW", "OLD", "NEW"]).is_err());
    }
}
