#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt as _;

use super::*;

/// A helper of this name in `dir` that does what the script says.
fn helper(dir: &Path, name: &str, script: &str) -> String {
    let path = dir.join(format!("docker-credential-{name}"));
    // Renamed into its place, so that nobody who forks meanwhile holds it open for writing.
    let unfinished = dir.join("unfinished");
    std::fs::write(&unfinished, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&unfinished, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::rename(&unfinished, &path).unwrap();
    path.to_str().unwrap().to_owned()
}

fn shown(found: Result<Option<Credentials>, String>) -> String {
    match found {
        Ok(Some(Credentials::Basic { username, password })) => format!("{username}:{password}"),
        Ok(Some(Credentials::IdentityToken(token))) => format!("token {token}"),
        Ok(None) => "nothing".to_owned(),
        Err(problem) => problem,
    }
}

#[tokio::test]
async fn a_helper_is_asked_by_dockers_protocol() {
    let dir = tempfile::tempdir().unwrap();
    let cases = [
        (
            r#"read server; [ "$1" = get ] && echo "{\"ServerURL\":\"$server\",\"Username\":\"u-$server\",\"Secret\":\"p\"}""#,
            "u-r.example:p",
        ),
        (
            r#"echo '{"Username":"<token>","Secret":"refresh"}'"#,
            "token refresh",
        ),
        (r#"echo '{"Username":"","Secret":""}'"#, "nothing"),
        (
            "echo 'credentials not found in native keychain'; exit 1",
            "nothing",
        ),
        (
            "echo '{\"Secret\":\"s3cret\"}'; exit 3",
            "failed (exit status: 3); `echo r.example | PROGRAM get` shows why",
        ),
        (
            "echo '{\"Secret\":\"s3cret\"}'",
            "answered something else than JSON with `Username` and `Secret`",
        ),
        (
            "head -c 100000 /dev/zero",
            "answered with more than 65536 bytes",
        ),
    ];
    for (number, (script, expected)) in cases.into_iter().enumerate() {
        let program = helper(dir.path(), &number.to_string(), script);
        let found = shown(run(&program, "r.example").await);
        assert_eq!(found.replace(&program, "PROGRAM"), expected, "{script}");
    }
    let absent = dir.path().join("absent");
    let found = shown(run(absent.to_str().unwrap(), "r.example").await);
    assert!(found.contains("is not installed"), "{found}");
}

#[test]
fn files_name_helpers_by_registry_and_for_all() {
    let mut helpers = Helpers::default();
    let path = Path::new("/x/config.json");
    let add = |helpers: &mut Helpers, text: &str| helpers.add(path, text.as_bytes());
    add(&mut helpers, r#"{"auths": {}}"#).unwrap();
    assert!(helpers.files.is_empty(), "no helpers, no keychain");
    add(
        &mut helpers,
        r#"{"credsStore": "desktop", "credHelpers": {"https://index.docker.io/v1/": "hub", "R.example:5000": "", "q.example": "ecr-login"}}"#,
    )
    .unwrap();
    let file = &helpers.files[0];
    assert_eq!(file.store.as_deref(), Some("desktop"));
    let names: Vec<_> = file
        .by_host
        .iter()
        .map(|(h, n)| format!("{h}={n}"))
        .collect();
    assert_eq!(
        names,
        ["docker.io=hub", "q.example=ecr-login", "r.example:5000="]
    );
    for bad in [
        r#"{"credsStore": "../evil"}"#,
        r#"{"credHelpers": {"a": "x/y"}}"#,
        r#"{"credHelpers": {"a": "x y"}}"#,
        r#"{"credHelpers": {"": "x"}}"#,
        r#"{"credHelpers": ["x"]}"#,
    ] {
        assert!(add(&mut helpers, bad).is_err(), "{bad}");
    }
}

#[tokio::test]
async fn a_helper_that_is_not_there_is_named_with_its_file() {
    let mut helpers = Helpers::default();
    let text = br#"{"credHelpers": {"r.example": "caprock-test-absent", "s.example": ""}, "credsStore": "caprock-test-none"}"#;
    helpers.add(Path::new("/x/config.json"), text).unwrap();
    let error = helpers.credentials("r.example").await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "`docker-credential-caprock-test-absent`, which `/x/config.json` names, is not installed; install it, or leave it \
         out there"
    );
    assert!(helpers.credentials("s.example").await.unwrap().is_none());
    assert!(helpers.credentials("t.example").await.is_err());
}

#[test]
fn the_first_of_the_usual_places_counts() {
    let places = |variables: &[(&str, &str)]| {
        let variable = |name: &str| {
            let found = variables.iter().find(|(key, _)| *key == name);
            found.map(|(_, value)| OsString::from(value))
        };
        usual(&variable)
            .iter()
            .map(|path| path.display().to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(
        places(&[("HOME", "/h"), ("XDG_RUNTIME_DIR", "/run/user/7")]),
        [
            "/run/user/7/containers/auth.json",
            "/h/.config/containers/auth.json",
            "/h/.docker/config.json",
            "/h/.dockercfg"
        ]
    );
    let user = rustix::process::getuid().as_raw();
    assert_eq!(
        places(&[("DOCKER_CONFIG", "/d"), ("XDG_CONFIG_HOME", "/c")]),
        [
            format!("/run/containers/{user}/auth.json"),
            "/c/containers/auth.json".to_owned(),
            "/d/config.json".to_owned()
        ]
    );
}

#[test]
fn a_named_file_must_be_there_and_be_one() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("auth.json");
    assert!(read(Some(&path)).is_err());
    std::fs::write(&path, "[]").unwrap();
    assert!(read(Some(&path)).is_err());
    std::fs::write(&path, r#"{"auths": {"r.example": {"auth": "dTpw"}}}"#).unwrap();
    let found = read(Some(&path)).unwrap();
    assert!(found.auth.credentials_for("r.example", "a").is_some() && found.keychain.is_none());
    // Docker's settings without any credentials.
    std::fs::write(&path, r#"{"currentContext": "x", "HttpHeaders": {}}"#).unwrap();
    assert!(read(Some(&path)).unwrap().auth.is_empty());
}
