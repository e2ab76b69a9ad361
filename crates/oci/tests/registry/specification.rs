//! The OCI distribution specification 1.1, item by item: what is asked, and what is answered.

use bytes::Bytes;
use http::Method;
use oci::Digest;
use serde_json::json;

use crate::support::{Answer, Fixture, INDEX, MANIFEST, fixture, manifest};

/// One request and its answer. `{blob}` and the like stand for digests of what the fixture holds.
struct Row {
    item: &'static str,
    ask: &'static str,
    headers: &'static [(&'static str, &'static str)],
    body: &'static str,
    status: u16,
    /// An error's code.
    code: &'static str,
    /// Headers of the answer; empty: it must be absent.
    answer: &'static [(&'static str, &'static str)],
}

const ROW: Row = Row {
    item: "",
    ask: "",
    headers: &[],
    body: "",
    status: 200,
    code: "",
    answer: &[],
};

const SHA512: &str = "sha512:cf83e1357eefb8bdf1542850d66d8007d620e4050b5715dc83f4a921d36ce9ce47d0d13c5d85f2b0ff8318d2877eec2f63b931bd47417a81a538327af927da3e";

/// Rows are asked in this order, of one registry.
fn table() -> Vec<Row> {
    vec![
        Row {
            item: "determining support",
            ask: "GET /v2/",
            ..ROW
        },
        Row {
            item: "determining support, without the slash",
            ask: "GET /v2",
            ..ROW
        },
        // Pull.
        Row {
            item: "a blob",
            ask: "GET /v2/a/b/blobs/{layer}",
            answer: &[
                ("content-length", "5"),
                ("docker-content-digest", "{layer}"),
                ("accept-ranges", "bytes"),
            ],
            ..ROW
        },
        Row {
            item: "whether a blob is there",
            ask: "HEAD /v2/a/b/blobs/{layer}",
            answer: &[
                ("content-length", "5"),
                ("docker-content-digest", "{layer}"),
            ],
            ..ROW
        },
        Row {
            item: "a part of a blob",
            ask: "GET /v2/a/b/blobs/{layer}",
            headers: &[("range", "bytes=1-3")],
            status: 206,
            answer: &[("content-range", "bytes 1-3/5"), ("content-length", "3")],
            ..ROW
        },
        Row {
            item: "a part that is not there",
            ask: "GET /v2/a/b/blobs/{layer}",
            headers: &[("range", "bytes=9-")],
            status: 416,
            answer: &[("content-range", "bytes */5")],
            ..ROW
        },
        Row {
            item: "no such blob",
            ask: "GET /v2/a/b/blobs/{nothing}",
            status: 404,
            code: "BLOB_UNKNOWN",
            ..ROW
        },
        Row {
            item: "no such blob, asked",
            ask: "HEAD /v2/a/b/blobs/{nothing}",
            status: 404,
            ..ROW
        },
        Row {
            item: "a blob of another repository",
            ask: "HEAD /v2/other/blobs/{layer}",
            status: 404,
            ..ROW
        },
        Row {
            item: "a manifest by tag",
            ask: "GET /v2/a/b/manifests/one",
            headers: &[("accept", MANIFEST)],
            answer: &[
                ("content-type", MANIFEST),
                ("docker-content-digest", "{image}"),
            ],
            ..ROW
        },
        Row {
            item: "a manifest by digest",
            ask: "HEAD /v2/a/b/manifests/{image}",
            answer: &[
                ("content-type", MANIFEST),
                ("docker-content-digest", "{image}"),
            ],
            ..ROW
        },
        Row {
            item: "no such tag",
            ask: "GET /v2/a/b/manifests/none",
            status: 404,
            code: "MANIFEST_UNKNOWN",
            ..ROW
        },
        Row {
            item: "no such manifest",
            ask: "HEAD /v2/a/b/manifests/{nothing}",
            status: 404,
            ..ROW
        },
        Row {
            item: "a name that is none",
            ask: "GET /v2/A/manifests/one",
            status: 400,
            code: "NAME_INVALID",
            ..ROW
        },
        Row {
            item: "a digest that is none",
            ask: "GET /v2/a/b/blobs/sha256:12",
            status: 400,
            code: "DIGEST_INVALID",
            ..ROW
        },
        // Push.
        Row {
            item: "a blob by one POST",
            ask: "POST /v2/a/b/blobs/uploads/?digest={posted}",
            body: "posted",
            status: 201,
            answer: &[
                ("location", "/v2/a/b/blobs/{posted}"),
                ("docker-content-digest", "{posted}"),
            ],
            ..ROW
        },
        Row {
            item: "another blob than its digest says",
            ask: "POST /v2/a/b/blobs/uploads/?digest={nothing}",
            body: "posted",
            status: 400,
            code: "DIGEST_INVALID",
            ..ROW
        },
        Row {
            item: "an algorithm that is not taken",
            ask: "POST /v2/a/b/blobs/uploads/?digest={sha512}",
            status: 400,
            code: "DIGEST_INVALID",
            ..ROW
        },
        Row {
            item: "a mount",
            ask: "POST /v2/other/blobs/uploads/?mount={layer}&from=a/b",
            status: 201,
            answer: &[("location", "/v2/other/blobs/{layer}")],
            ..ROW
        },
        Row {
            item: "a mount of what is not there becomes an upload",
            ask: "POST /v2/other/blobs/uploads/?mount={nothing}&from=a/b",
            status: 202,
            answer: &[("range", "0-0")],
            ..ROW
        },
        Row {
            item: "a mount from nowhere becomes an upload",
            ask: "POST /v2/other/blobs/uploads/?mount={layer}",
            status: 202,
            ..ROW
        },
        Row {
            item: "an upload that does not exist",
            ask: "PATCH /v2/a/b/blobs/uploads/none",
            status: 404,
            code: "BLOB_UPLOAD_UNKNOWN",
            ..ROW
        },
        Row {
            item: "the end of an upload that does not exist",
            ask: "PUT /v2/a/b/blobs/uploads/none?digest={layer}",
            status: 404,
            code: "BLOB_UPLOAD_UNKNOWN",
            ..ROW
        },
        Row {
            item: "a manifest without its blobs",
            ask: "PUT /v2/a/b/manifests/two",
            headers: &[("content-type", MANIFEST)],
            body: "{dangling}",
            status: 404,
            code: "MANIFEST_BLOB_UNKNOWN",
            ..ROW
        },
        Row {
            item: "a manifest that is none",
            ask: "PUT /v2/a/b/manifests/two",
            headers: &[("content-type", MANIFEST)],
            body: "[]",
            status: 400,
            code: "MANIFEST_INVALID",
            ..ROW
        },
        Row {
            item: "a manifest of another type than it says",
            ask: "PUT /v2/a/b/manifests/two",
            headers: &[("content-type", INDEX)],
            body: "{signature}",
            status: 400,
            code: "MANIFEST_INVALID",
            ..ROW
        },
        Row {
            item: "a manifest of another digest",
            ask: "PUT /v2/a/b/manifests/{nothing}",
            headers: &[("content-type", MANIFEST)],
            body: "{signature}",
            status: 400,
            code: "DIGEST_INVALID",
            ..ROW
        },
        Row {
            item: "a tag that is none",
            ask: "PUT /v2/a/b/manifests/.two",
            headers: &[("content-type", MANIFEST)],
            body: "{signature}",
            status: 400,
            code: "MANIFEST_INVALID",
            ..ROW
        },
        Row {
            item: "a manifest with a subject, which need not be there",
            ask: "PUT /v2/a/b/manifests/signature",
            headers: &[("content-type", MANIFEST)],
            body: "{signature}",
            status: 201,
            answer: &[
                ("oci-subject", "{image}"),
                ("location", "/v2/a/b/manifests/{signature-digest}"),
                ("docker-content-digest", "{signature-digest}"),
            ],
            ..ROW
        },
        // Content discovery.
        Row {
            item: "tags, a page",
            ask: "GET /v2/a/b/tags/list?n=1",
            answer: &[("link", "</v2/a/b/tags/list?n=1&last=one>; rel=\"next\"")],
            ..ROW
        },
        Row {
            item: "tags, the last page",
            ask: "GET /v2/a/b/tags/list?n=1&last=one",
            answer: &[("link", "")],
            ..ROW
        },
        Row {
            item: "tags, none",
            ask: "GET /v2/a/b/tags/list?n=0",
            answer: &[("link", "")],
            ..ROW
        },
        Row {
            item: "tags of nothing",
            ask: "GET /v2/none/tags/list",
            status: 404,
            code: "NAME_UNKNOWN",
            ..ROW
        },
        Row {
            item: "referrers",
            ask: "GET /v2/a/b/referrers/{image}",
            answer: &[("content-type", INDEX), ("oci-filters-applied", "")],
            ..ROW
        },
        Row {
            item: "referrers of a kind",
            ask: "GET /v2/a/b/referrers/{image}?artifactType=application/x.signature",
            answer: &[
                ("content-type", INDEX),
                ("oci-filters-applied", "artifactType"),
            ],
            ..ROW
        },
        Row {
            item: "referrers of nothing",
            ask: "GET /v2/a/b/referrers/{nothing}",
            answer: &[("content-type", INDEX)],
            ..ROW
        },
        // Content management.
        Row {
            item: "a tag is deleted",
            ask: "DELETE /v2/a/b/manifests/signature",
            status: 202,
            ..ROW
        },
        Row {
            item: "its manifest stays",
            ask: "HEAD /v2/a/b/manifests/{signature-digest}",
            ..ROW
        },
        Row {
            item: "a manifest is deleted",
            ask: "DELETE /v2/a/b/manifests/{signature-digest}",
            status: 202,
            ..ROW
        },
        Row {
            item: "it is gone",
            ask: "DELETE /v2/a/b/manifests/{signature-digest}",
            status: 404,
            code: "MANIFEST_UNKNOWN",
            ..ROW
        },
        Row {
            item: "a blob is deleted",
            ask: "DELETE /v2/a/b/blobs/{posted}",
            status: 202,
            ..ROW
        },
        Row {
            item: "it is gone",
            ask: "DELETE /v2/a/b/blobs/{posted}",
            status: 404,
            code: "BLOB_UNKNOWN",
            ..ROW
        },
        Row {
            item: "what nobody specified",
            ask: "POST /v2/a/b/tags/list",
            status: 405,
            code: "UNSUPPORTED",
            ..ROW
        },
    ]
}

#[tokio::test]
async fn every_item_is_answered_as_specified() {
    let f = fixture();
    let (config, layer) = (Bytes::from("{}"), Bytes::from("layer"));
    f.push_blob("a/b", &config).await;
    f.push_blob("a/b", &layer).await;
    let image = manifest(&config, &[&layer]);
    assert_eq!(f.put_manifest("a/b", "one", &image).await.status, 201);
    let image = image.to_string();
    let mut signature = manifest(&config, &[]);
    signature["artifactType"] = "application/x.signature".into();
    signature["subject"] =
        json!({"mediaType": MANIFEST, "digest": Digest::of(image.as_bytes()), "size": image.len()});
    let signature = signature.to_string();
    let dangling = manifest(&config, &[&Bytes::from("not there")]).to_string();
    let names = [
        ("{layer}", Digest::of(b"layer").to_string()),
        ("{posted}", Digest::of(b"posted").to_string()),
        ("{nothing}", Digest::of(b"nothing").to_string()),
        ("{image}", Digest::of(image.as_bytes()).to_string()),
        (
            "{signature-digest}",
            Digest::of(signature.as_bytes()).to_string(),
        ),
        ("{signature}", signature),
        ("{dangling}", dangling),
        ("{sha512}", SHA512.to_owned()),
    ];
    let fill = |text: &str| {
        let fill = |text: String, (name, value): &(&str, String)| text.replace(name, value);
        names.iter().fold(text.to_owned(), fill)
    };
    for row in table() {
        let ask = fill(row.ask);
        let (method, path) = ask.split_once(' ').unwrap();
        let method: Method = method.parse().unwrap();
        let answer = f.with(method, path, row.headers, fill(row.body)).await;
        check(&row, &answer, &fill);
    }
}

fn check(row: &Row, answer: &Answer, fill: &dyn Fn(&str) -> String) {
    let item = format!("{} ({})", row.item, row.ask);
    assert_eq!(answer.status, row.status, "{item}: {:?}", answer.body);
    if !row.code.is_empty() {
        assert_eq!(answer.code(), row.code, "{item}");
        assert_eq!(answer.header("content-type"), "application/json", "{item}");
    }
    for (name, value) in row.answer {
        assert_eq!(answer.header(name), fill(value), "{item}: {name}");
    }
}

/// In pieces with their places, and as one stream; each way ends in the same blob.
#[tokio::test]
async fn uploads_in_pieces_and_as_a_stream_give_the_same_blob() {
    let f = fixture();
    let content = Bytes::from("some content of a blob");
    let digest = Digest::of(&content);
    for pieces in [
        vec![content.clone()],
        vec![content.slice(..9), content.slice(9..)],
    ] {
        let started = f.ask(Method::POST, "/v2/a/b/blobs/uploads/", "").await;
        assert_eq!(started.status, 202);
        let mut place = started.header("location").to_owned();
        let mut at = 0;
        for piece in &pieces {
            let range = format!("{at}-{}", at + piece.len() - 1);
            let headers: &[(&str, &str)] = match pieces.len() {
                1 => &[],
                _ => &[
                    ("content-range", &range),
                    ("content-type", "application/octet-stream"),
                ],
            };
            let answer = f.with(Method::PATCH, &place, headers, piece.clone()).await;
            at += piece.len();
            assert_eq!(
                (answer.status, answer.header("range")),
                (202, &*format!("0-{}", at - 1))
            );
            place = answer.header("location").to_owned();
        }
        let path = format!("{place}?digest={digest}");
        assert_eq!(f.ask(Method::PUT, &path, "").await.status, 201);
        assert_eq!(
            f.get(&format!("/v2/a/b/blobs/{digest}")).await.body,
            content
        );
        assert_eq!(
            f.ask(Method::DELETE, &format!("/v2/a/b/blobs/{digest}"), "")
                .await
                .status,
            202
        );
    }
    // Cancelled, it is gone.
    let started = f.ask(Method::POST, "/v2/a/b/blobs/uploads/", "").await;
    let place = started.header("location");
    assert_eq!(f.ask(Method::DELETE, place, "").await.status, 204);
    assert_eq!(f.get(place).await.status, 404);
}

#[tokio::test]
async fn a_manifest_has_a_largest_size() {
    let f: Fixture = fixture();
    let long = vec![b' '; oci::manifest::MAX_MANIFEST as usize + 1];
    let headers = [("content-type", MANIFEST)];
    let answer = f
        .with(Method::PUT, "/v2/a/manifests/x", &headers, long)
        .await;
    assert_eq!((answer.status, &*answer.code()), (413, "MANIFEST_INVALID"));
}
