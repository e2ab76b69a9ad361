#![allow(clippy::unwrap_used)]
use super::*;

const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn parse(text: &str) -> Result<Registries, RegistriesError> {
    let mut found = Registries::default();
    found.add(Path::new("registries.conf"), text)?;
    Ok(found)
}

/// Places to try, an insecure one with `!`.
fn places(text: &str, reference: &str) -> Vec<String> {
    let sources = parse(text)
        .unwrap()
        .sources(&reference.parse().unwrap())
        .unwrap();
    sources
        .iter()
        .map(|source| {
            format!(
                "{}{}",
                source.reference,
                ["", " !"][usize::from(source.insecure)]
            )
        })
        .collect()
}

#[test]
fn without_an_entry_an_image_comes_from_where_its_name_says() {
    assert_eq!(places("", "quay.io/a/b:1"), ["quay.io/a/b:1"]);
    let other = "[[registry]]\nlocation = 'quay.io.example'\nblocked = true";
    assert_eq!(places(other, "quay.io/a/b:1"), ["quay.io/a/b:1"]);
}

#[test]
fn mirrors_come_first_and_in_their_order() {
    let text = "
        [[registry]]
        prefix = 'quay.io/a'
        location = 'quay.io/a'
        [[registry.mirror]]
        location = 'one.example:5000/m'
        insecure = true
        [[registry.mirror]]
        location = 'two.example'
    ";
    assert_eq!(
        places(text, "quay.io/a/b/c:1"),
        [
            "one.example:5000/m/b/c:1 !",
            "two.example/b/c:1",
            "quay.io/a/b/c:1"
        ]
    );
    assert_eq!(places(text, "quay.io/ab/c:1"), ["quay.io/ab/c:1"]);
    assert_eq!(
        places(text, &format!("quay.io/a/b@{DIGEST}"))[1],
        format!("two.example/b@{DIGEST}")
    );
}

#[test]
fn mirrors_may_serve_digests_or_tags_alone() {
    let digests = "
        [[registry]]
        location = 'quay.io'
        mirror-by-digest-only = true
        [[registry.mirror]]
        location = 'm.example'
    ";
    assert_eq!(places(digests, "quay.io/a:1"), ["quay.io/a:1"]);
    assert_eq!(places(digests, &format!("quay.io/a@{DIGEST}")).len(), 2);
    let each = "
        [[registry]]
        location = 'quay.io'
        [[registry.mirror]]
        location = 'd.example'
        pull-from-mirror = 'digest-only'
        [[registry.mirror]]
        location = 't.example'
        pull-from-mirror = 'tag-only'
    ";
    assert_eq!(
        places(each, "quay.io/a:1"),
        ["t.example/a:1", "quay.io/a:1"]
    );
    assert_eq!(
        places(each, &format!("quay.io/a@{DIGEST}"))[0],
        format!("d.example/a@{DIGEST}")
    );
}

#[test]
fn the_longest_prefix_counts_and_a_location_moves_it() {
    let text = "
        [[registry]]
        prefix = 'quay.io'
        location = 'outer.example'
        [[registry]]
        prefix = 'quay.io/a/b'
        location = 'inner.example/x'
        [[registry]]
        prefix = '*.corp.example'
        insecure = true
        [[registry]]
        prefix = 'quay.io/a/b/one:2'
        blocked = true
        location = 'quay.io'
    ";
    assert_eq!(places(text, "quay.io/a/c:1"), ["outer.example/a/c:1"]);
    assert_eq!(places(text, "quay.io/a/b:1"), ["inner.example/x:1"]);
    assert_eq!(places(text, "quay.io/a/b/d:1"), ["inner.example/x/d:1"]);
    assert_eq!(places(text, "r.corp.example/a:1"), ["r.corp.example/a:1 !"]);
    assert_eq!(places(text, "corp.example/a:1"), ["corp.example/a:1"]);
    let blocked = parse(text)
        .unwrap()
        .sources(&"quay.io/a/b/one:2".parse().unwrap())
        .unwrap_err();
    assert_eq!(
        blocked.to_string(),
        "registry `quay.io/a/b/one:2` is blocked in registries.conf, so `quay.io/a/b/one:2` cannot be reached"
    );
}

#[test]
fn problems_are_named() {
    let check = |text: &str, expected: &str| {
        let error = parse(text).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    };
    check("[[registry]]\nlocation = 7", "line 2: ");
    check("[[registry", "line 1: ");
    check(
        "[registries.search]\nregistries = ['a']",
        "version 1; write `[[registry]]`",
    );
    check("[[registry]]\nblocked = true", "found neither");
    check(
        "[[registry]]\nprefix = 'a.example'",
        "expected a `location`",
    );
    check(
        "[[registry]]\nlocation = 'https://a.example'",
        "has a scheme",
    );
    check(
        "[[registry]]\nlocation = 'a.example'\nmirror-by-digest-only = true\n[[registry.mirror]]\nlocation = 'b'\npull-from-mirror = 'all'",
        "exclude each other",
    );
    check(
        "[[registry]]\nlocation = 'a'\n[[registry.mirror]]\nlocation = 'b'\npull-from-mirror = 'never'",
        "never",
    );
}

#[test]
fn drop_ins_follow_in_the_order_of_their_names_and_replace() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("registries.conf");
    assert_eq!(Registries::load(&path).unwrap(), Registries::default());
    let entry =
        |location: &str| format!("[[registry]]\nprefix = 'quay.io'\nlocation = '{location}'");
    std::fs::write(
        &path,
        "unqualified-search-registries = ['a']\n".to_owned() + &entry("main.example"),
    )
    .unwrap();
    let folder = dir.path().join("registries.conf.d");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("20-b.conf"), entry("later.example")).unwrap();
    std::fs::write(folder.join("10-a.conf"), entry("earlier.example")).unwrap();
    std::fs::write(folder.join("99.off"), "not read [").unwrap();
    let found = Registries::load(&path).unwrap();
    let sources = found.sources(&"quay.io/x:1".parse().unwrap()).unwrap();
    assert_eq!(sources[0].reference.to_string(), "later.example/x:1");
    std::fs::write(folder.join("30-bad.conf"), "nonsense [").unwrap();
    let error = Registries::load(&path).unwrap_err().to_string();
    assert!(error.contains("30-bad.conf"), "{error}");
}

#[test]
fn a_wildcard_may_have_a_path() {
    let text = "[[registry]]\nprefix = '*.example.com:5000/team'\nlocation = 'm.example/t'";
    let cases = [
        ("a.example.com:5000/team/app:1", "m.example/t/app:1"),
        ("a.b.example.com:5000/team:1", "m.example/t:1"),
        (
            "a.example.com:5000/teams/app:1",
            "a.example.com:5000/teams/app:1",
        ),
        ("example.com:5000/team/app:1", "example.com:5000/team/app:1"),
        ("a.example.com/team/app:1", "a.example.com/team/app:1"),
    ];
    for (reference, expected) in cases {
        assert_eq!(places(text, reference), [expected], "{reference}");
    }
    assert!(parse("[[registry]]\nprefix = 'a.*.example'\nlocation = 'x.example'").is_err());
}

#[test]
fn pushes_go_where_the_name_says_unless_that_is_blocked() {
    let text = "
        [[registry]]
        prefix = 'a.example'
        location = 'b.example'
        insecure = true
        [[registry.mirror]]
        location = 'c.example'
        [[registry]]
        location = 'd.example/closed'
        blocked = true
    ";
    let target = |reference: &str| parse(text).unwrap().target(&reference.parse().unwrap());
    let found = target("a.example/x:1").unwrap();
    assert_eq!(found.reference.to_string(), "a.example/x:1");
    assert!(found.insecure);
    assert!(!target("d.example/open:1").unwrap().insecure);
    let error = target("d.example/closed/x:1").unwrap_err().to_string();
    assert!(error.contains("`d.example/closed` is blocked"), "{error}");
}
