//! How errors, warnings and objects look.

use http::Method;
use serde_json::{Value, json};

use crate::call::{Call, WIDGETS, get, post};
use crate::common::{Fixture, widget};

#[tokio::test]
async fn errors_have_their_shapes() {
    let fixture = Fixture::new();
    let missing = get(&format!("{WIDGETS}/w")).answer(&fixture).await.1;
    assert_eq!(
        missing["details"],
        json!({"name": "w", "group": "example.com", "kind": "widgets"})
    );
    let new = |body: &[u8]| Call::new(Method::POST, WIDGETS).body("application/json", body);
    let list = |query: &str| get(&format!("{WIDGETS}?{query}"));
    let strategic = Call::new(Method::PATCH, &format!("{WIDGETS}/w"))
        .body("application/strategic-merge-patch+json", b"{}");
    let mut wrong = widget("w", 1);
    wrong["kind"] = json!("Gadget");
    let mut moved = widget("w", 1);
    moved["metadata"]["namespace"] = json!("none");
    let elsewhere = post("/apis/example.com/v1/namespaces/none/widgets", &moved);
    let unknown = "could not find the requested resource";
    let unread = Call::new(Method::POST, WIDGETS).body("application/xml", b"");
    #[rustfmt::skip]
    let cases = [
        (get(&format!("{WIDGETS}/w")), 404, "NotFound", "widgets.example.com \"w\" not found"),
        (get("/apis/example.com/v1/nosuch"), 404, "NotFound", unknown),
        (get("/apis/example.com/v1/widgets/w"), 404, "NotFound", unknown),
        (Call::new(Method::PUT, WIDGETS), 405, "MethodNotAllowed", "does not allow this method"),
        (get(WIDGETS).header("accept", "application/xml"), 406, "NotAcceptable", "application/json"),
        (unread, 415, "UnsupportedMediaType", "application/json"),
        (strategic, 415, "UnsupportedMediaType", "merge-patch+json"),
        (new(&vec![b' '; (3 << 20) + 1]), 413, "RequestEntityTooLarge", "limit is 3145728"),
        (new(b"{\"a\":"), 400, "BadRequest", "not valid JSON"),
        (post(WIDGETS, &wrong), 400, "BadRequest", "does not match the expected kind"),
        (elsewhere, 404, "NotFound", "namespaces \"none\" not found"),
        (list("fieldSelector=spec.size%3D1"), 400, "BadRequest", "field label not supported: spec.size"),
        (list("labelSelector=a%20in%20b"), 400, "BadRequest", "unable to parse"),
        (list("resourceVersion=999999"), 504, "Timeout", "Too large resource version"),
        (list("limit=1&continue=bm9uc2Vuc2U"), 400, "BadRequest", "continue key is not valid"),
    ];
    for (call, code, reason, message) in cases {
        let (found, status) = call.answer(&fixture).await;
        assert_eq!(
            (found, &status["reason"]),
            (code, &json!(reason)),
            "{status}"
        );
        let told = status["message"].as_str().unwrap();
        assert!(told.contains(message), "{told}");
    }
}

#[tokio::test]
async fn invalid_objects_name_every_field() {
    let fixture = Fixture::new();
    let mut object = widget("Bad_Name", 101);
    object["spec"]["color"] = json!("pink");
    object["spec"]["tags"] = json!(["a", "a"]);
    object["spec"]["parts"] = json!([{"count": 1}, {"name": "x"}, {"name": "x"}]);
    object["metadata"]["labels"] = json!({"ok": "not ok"});
    let (code, status) = post(WIDGETS, &object).answer(&fixture).await;
    assert_eq!(code, 422);
    assert_eq!(status["reason"], "Invalid");
    assert_eq!(status["details"]["kind"], "Widget");
    let causes: Vec<String> = status["details"]["causes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|cause| {
            let reason = cause["reason"].as_str().unwrap();
            format!("{reason} {}", cause["field"].as_str().unwrap())
        })
        .collect();
    assert_eq!(
        causes,
        [
            "FieldValueInvalid metadata.name",
            "FieldValueInvalid metadata.labels",
            "FieldValueNotSupported spec.color",
            "FieldValueDuplicate spec.parts[2]",
            "FieldValueRequired spec.parts[0].name",
            "FieldValueInvalid spec.size",
            "FieldValueDuplicate spec.tags[1]",
        ]
    );
}

#[tokio::test]
async fn unknown_and_duplicate_fields_follow_field_validation() {
    let fixture = Fixture::new();
    let body = br#"{"apiVersion": "example.com/v1", "kind": "Widget", "metadata": {"name": "w", "lables": {}},
        "spec": {"size": 1, "size": 2, "colour": "red", "free": {"any": 1}}}"#;
    let call = |validation: &str| {
        let path = format!("{WIDGETS}?fieldValidation={validation}&dryRun=All");
        Call::new(Method::POST, &path).body("application/json", body)
    };
    let problems = [
        "duplicate field \"spec.size\"",
        "unknown field \"spec.colour\" (did you mean \"color\"?)",
        "unknown field \"metadata.lables\" (did you mean \"labels\"?)",
    ];
    let (code, status) = call("Strict").answer(&fixture).await;
    assert_eq!(code, 400);
    assert_eq!(
        status["message"],
        format!(
            "Widget in version \"v1\" cannot be handled as a Widget: strict decoding error: {}",
            problems.join(", ")
        )
    );
    let (code, headers, body) = call("Warn").send(&fixture).await;
    assert_eq!(code, 201);
    let warnings: Vec<&str> = headers
        .get_all("warning")
        .iter()
        .map(|value| value.to_str().unwrap())
        .collect();
    assert_eq!(warnings.len(), 3);
    assert!(
        warnings[1].starts_with("299 - \"unknown field \\\"spec.colour\\\""),
        "{warnings:?}"
    );
    let object: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        object["spec"],
        json!({"size": 2, "color": "red", "free": {"any": 1}})
    );
    let (code, headers, _) = call("Ignore").send(&fixture).await;
    assert_eq!(code, 201);
    assert!(headers.get("warning").is_none());
    // All of it was a dry run.
    assert_eq!(get(&format!("{WIDGETS}/w")).answer(&fixture).await.0, 404);
}

#[tokio::test]
async fn tables_and_partial_objects_are_negotiated() {
    let fixture = Fixture::new();
    post(WIDGETS, &widget("w", 7)).answer(&fixture).await;
    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
    let (_, table) = get(WIDGETS).header("accept", accept).answer(&fixture).await;
    assert_eq!(table["kind"], "Table");
    let names: Vec<&str> = table["columnDefinitions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|column| column["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["Name", "Size", "Ready", "Age"]);
    let row = &table["rows"][0];
    assert_eq!(row["cells"][0], "w");
    assert_eq!(row["cells"][1], 7);
    assert_eq!(row["cells"][2], Value::Null);
    assert_eq!(row["object"]["kind"], "PartialObjectMetadata");

    let accept = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";
    let (_, list) = get(WIDGETS).header("accept", accept).answer(&fixture).await;
    assert_eq!(list["kind"], "PartialObjectMetadataList");
    assert_eq!(list["items"][0]["metadata"]["name"], "w");
    assert!(list["items"][0].get("spec").is_none());
}

#[tokio::test]
async fn events_are_one_thing_in_two_shapes() {
    let fixture = Fixture::new();
    let event = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event",
        "metadata": {"name": "e", "namespace": "default"},
        "regarding": {"kind": "Widget", "name": "w", "namespace": "default"},
        "note": "it happened", "reason": "Happened", "action": "Test", "type": "Normal",
        "reportingController": "test", "reportingInstance": "test-1",
        "eventTime": "2026-01-01T00:00:00.000000Z",
    });
    let path = "/apis/events.k8s.io/v1/namespaces/default/events";
    let (code, created) = post(path, &event).answer(&fixture).await;
    assert_eq!(code, 201, "{created}");
    assert_eq!(created["note"], "it happened");
    let core = "/api/v1/namespaces/default/events?fieldSelector=involvedObject.name%3Dw";
    let (_, list) = get(core).answer(&fixture).await;
    assert_eq!(list["items"][0]["message"], "it happened");
    assert_eq!(list["items"][0]["apiVersion"], "v1");
}
