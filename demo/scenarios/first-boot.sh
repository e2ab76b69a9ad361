# A machine that has nothing but a join token boots once, into its pool's layered image and whole configuration, and is
# a schedulable Node only then. What the server gives is given to nobody without a token, and to each what is its own.
# shellcheck shell=bash
. "$(dirname "${BASH_SOURCE[0]}")/../scenario.sh"

image_is_built() { [ -n "$(field "mosc/$POOL" .status.currentImagePullSpec)" ]; }

# status CURL-ARGUMENT...: of the answer.
status() {
    curl --silent --output /dev/null --write-out '%{http_code}' --cacert "$DATA/pki/ca.crt" "$@"
}
config_of() { printf 'https://127.0.0.1:%s/config/%s\n' "$API_PORT" "$1"; }
arrived() { state_is "$1" Done && [ "$(field "node/$1" .spec.unschedulable)" != true ]; }
has_first_boot_target() { [ -n "$(field "mcp/$1" '.metadata.annotations.caprock\.dev/first-boot-target')" ]; }

# shellcheck disable=SC2119 # it begins without one
with_nodes
example automount/machineconfigpool.yaml automount/machineconfigs.yaml automount/machineosconfig.yaml
equal "config without a token" "$(status "$(config_of "$POOL")")" 401
# The machine is there before there is anything to boot into; it waits.
join_node worker-1 "$POOL"
expect 900 "the pool to have a layered image" image_is_built
expect 120 "the pool to say what new nodes boot into" has_first_boot_target "$POOL"
expect 600 "worker-1 to join" arrived worker-1

equal reboots "$(reboots worker-1)" 1
image=$(field "mosc/$POOL" .status.currentImagePullSpec)
equal "current image" "$(annotation worker-1 currentImage)" "$image"
equal pool "$(field machineconfignode/worker-1 .spec.pool.name)" "$POOL"
expect 60 "autofs to be active" autofs_is_active worker-1
unpause "$POOL"
expect 300 "the pool to be updated" pool_is_updated "$POOL" 1
equal "reboots after the pool was unpaused" "$(reboots worker-1)" 1

note "what each token opens"
token=$(node exec worker-1 cat /var/lib/caprock/credentials/token)
equal "the node's own pool" "$(status -H "Authorization: Bearer $token" "$(config_of "$POOL")")" 200
equal "another pool" "$(status -H "Authorization: Bearer $token" "$(config_of worker)")" 403
equal "a Secret of the cluster" "$(status -H "Authorization: Bearer $token" \
    "https://127.0.0.1:$API_PORT/api/v1/namespaces/openshift-machine-config-operator/secrets/global-pull-secret-copy")" 403
equal "a push to the registry" "$(status -X POST -u "$(node exec worker-1 cat /etc/ostree/auth.json |
    jq -r --arg host "$REGISTRY" '.auths[$host].auth' | base64 -d)" "https://$REGISTRY/v2/os/debian/blobs/uploads/")" 403

note "trust and credentials follow without a reboot"
openssl req -x509 -newkey rsa:2048 -nodes -days 30 -subj /CN=site -keyout /dev/null -out "$STATE/site.crt" 2>/dev/null
kubectl -n openshift-machine-config-operator create configmap user-ca-bundle --from-file=ca-bundle.crt="$STATE/site.crt"
in_bundle() { node exec worker-1 cat /etc/ssl/certs/ca-certificates.crt | grep -qF "$(sed -n 2p "$STATE/site.crt")"; }
not_in_bundle() { ! in_bundle; }
expect 120 "the site's authority to be trusted on the node" in_bundle
kubectl -n openshift-machine-config-operator delete configmap user-ca-bundle
expect 120 "the site's authority to be gone from the node" not_in_bundle

note "the authority is replaced; the server is killed in the middle of it"
old=$(cat "$DATA/pki/ca.crt")
"$CAPROCK" certs rotate --overlap 0s --data-dir "$DATA"
kill_server
start_server
rotated() { "$CAPROCK" certs status --data-dir "$DATA" | grep -q '^rotation: *none' && [ "$(cat "$DATA/pki/ca.crt")" != "$old" ]; }
expect 300 "the new authority to be the only one" rotated
node_trusts() { [ "$(node exec worker-1 cat /var/lib/caprock/credentials/ca.crt)" = "$(cat "$DATA/pki/ca.crt")" ]; }
expect 180 "worker-1 to trust the new authority alone" node_trusts
expect 180 "worker-1 to be well" pool_is_updated "$POOL" 1
equal "reboots after all" "$(reboots worker-1)" 1

note "a node that is taken out is refused at once"
"$CAPROCK" node revoke worker-1 --data-dir "$DATA"
refused() { [ "$(status -H "Authorization: Bearer $token" "$(config_of "$POOL")")" = 401 ]; }
expect 30 "the node's token to be refused" refused
