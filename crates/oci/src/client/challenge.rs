//! Reads `WWW-Authenticate`: how a registry wants to be shown credentials.

/// A way to authenticate that we know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// A token from the service at `realm` (RFC 6750 and the distribution project's token specification).
    Bearer {
        realm: String,
        service: Option<String>,
        scope: Option<String>,
    },
    /// User name and password with each request (RFC 7617).
    Basic,
}

/// The best of the challenges in the values of `WWW-Authenticate`; schemes that we do not know are passed over.
pub(super) fn choose<'a>(headers: impl IntoIterator<Item = &'a str>) -> Option<Challenge> {
    let mut basic = None;
    for header in headers {
        for (scheme, params) in split(header) {
            if scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Challenge::Basic);
            }
            if scheme.eq_ignore_ascii_case("bearer") {
                let find = |name: &str| {
                    let param = params
                        .iter()
                        .find(|(key, _)| key.eq_ignore_ascii_case(name));
                    param.map(|(_, value)| value.clone())
                };
                if let Some(realm) = find("realm") {
                    let (service, scope) = (find("service"), find("scope"));
                    return Some(Challenge::Bearer {
                        realm,
                        service,
                        scope,
                    });
                }
            }
        }
    }
    basic
}

type Params = Vec<(String, String)>;

/// Splits a header into schemes with their parameters. A word followed by `=` is a parameter of the scheme
/// before it, any other word starts the next scheme; anything unreadable ends the reading.
fn split(header: &str) -> Vec<(String, Params)> {
    let mut schemes: Vec<(String, Params)> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if word.is_empty() {
            return schemes;
        }
        match after.trim_start().strip_prefix('=') {
            Some(value) => {
                let Some((value, after)) = read_value(value.trim_start()) else {
                    return schemes;
                };
                match schemes.last_mut() {
                    Some((_, params)) => params.push((word.to_owned(), value)),
                    None => return schemes,
                }
                rest = after;
            }
            None => {
                schemes.push((word.to_owned(), Vec::new()));
                rest = after;
            }
        }
    }
}

/// A word or a quoted text, and what follows it.
fn read_value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', '\t', ',']).unwrap_or(text.len());
        return Some((text[..end].to_owned(), &text[end..]));
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, &quoted[at + 1..])),
            '\\' => value.push(chars.next()?.1),
            c => value.push(c),
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        Some(Challenge::Bearer {
            realm: realm.to_owned(),
            service: owned(service),
            scope: owned(scope),
        })
    }

    #[test]
    fn chooses_the_best_scheme_that_it_can_read() {
        let cases = [
            ("Basic realm=\"registry\"", Some(Challenge::Basic)),
            ("basic", Some(Challenge::Basic)),
            (
                "Bearer realm=\"https://a/token\",service=\"a\",scope=\"repository:x/y:pull,push\"",
                bearer(
                    "https://a/token",
                    Some("a"),
                    Some("repository:x/y:pull,push"),
                ),
            ),
            (
                "Basic realm=\"x\", Bearer realm=https://a/t , service = a",
                bearer("https://a/t", Some("a"), None),
            ),
            (
                "Negotiate, BEARER Realm=\"a\\\"b\"",
                bearer("a\"b", None, None),
            ),
            ("Negotiate abc==, Basic realm=x", Some(Challenge::Basic)),
            ("Bearer service=\"x\"", None),
            ("Bearer realm=\"unfinished", None),
            ("realm=\"x\"", None),
            ("", None),
            (",,, =", None),
        ];
        for (header, expected) in cases {
            assert_eq!(choose([header]), expected, "{header}");
        }
        assert_eq!(
            choose(["Basic realm=x", "Bearer realm=y"]),
            bearer("y", None, None)
        );
    }

    proptest::proptest! {
        #[test]
        fn anything_can_be_read(header in "[ ,=\"\\\\a-cé]{0,40}|\\PC{0,40}") {
            let _ = choose([header.as_str()]);
        }
    }
}
