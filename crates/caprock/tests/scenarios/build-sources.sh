# A build takes files from a ConfigMap and an image, and a secret. What is missing is named; other content is another build.
push_base
kubectl -n "$NS" create configmap site --from-literal=site.conf=one >&3
kubectl -n "$NS" create secret generic login --from-literal=password=s3cret-value >&3
mkdir "$SCRATCH/tool"
printf 'FROM scratch\nCOPY tool /tool\n' >"$SCRATCH/tool/Containerfile"
echo "a tool" >"$SCRATCH/tool/tool"
tool=$("$CAPROCK" build --push -t "$REGISTRY/tools/one:1" --cache-dir "$BUILD_CACHE" --progress plain \
    --authfile "$DATA/registry-auth.json" --ca-file "$DATA/pki/ca.crt" "$SCRATCH/tool" 2>&3)
pool edge
condition mcp/edge RenderDegraded False

# Scenarios share a build cache: what an earlier run did must not be taken from there, or nothing is printed.
image edge <<TEXT
FROM configs AS final
ENV RUN_OF=$(date +%s%N)
COPY --from=site site.conf /usr/lib/site.conf
COPY --from=tools tool /usr/lib/tool
RUN --mount=type=secret,id=login cat /run/secrets/login | wc -c > /usr/lib/length
RUN cat /usr/lib/site.conf /usr/lib/tool /usr/lib/length
TEXT
kubectl annotate machineosconfig edge build-context.caprock.dev/site=configmap:sight \
    build-context.caprock.dev/tools="image:$REGISTRY/tools/one@$tool" build-secret.caprock.dev/login=login/password >&3
condition mcp/edge ImageBuildDegraded True
missing() { message mcp/edge ImageBuildDegraded | grep -q 'no ConfigMap'; }
eventually 60 missing
message mcp/edge ImageBuildDegraded

kubectl annotate --overwrite machineosconfig edge build-context.caprock.dev/site=configmap:site >&3
condition mcp/edge ImageBuildDegraded False
eventually 120 built edge
first=$(build_of edge)
say "built with:"
"$CAPROCK" logs "$first" | sed -n '/\] RUN cat \/usr/,$p' | grep -E '^(one|[0-9]+$)'
say "pushed: $(kubectl get machineosbuild "$first" -o 'jsonpath={.status.progress.pushed}' | grep -c done)"

# Other content, another build.
kubectl -n "$NS" patch configmap site --type merge -p '{"data":{"site.conf":"two"}}' >&3
another() { [ "$(build_of edge)" != "$first" ] && built edge; }
eventually 120 another
second=$(build_of edge)
say "rebuilt with:"
"$CAPROCK" logs "$second" | grep -E '^two'

# A rotated secret is another build of the same image: its value is in no layer, so no node has to reboot.
kubectl -n "$NS" patch secret login --type merge -p '{"stringData":{"password":"t3cret-value"}}' >&3
rotated() { [ "$(build_of edge)" != "$second" ] && built edge; }
eventually 120 rotated
image_of() { kubectl get machineosbuild "$1" -o 'jsonpath={.status.digestedImagePushSpec}'; }
[ "$(image_of "$second")" = "$(image_of "$(build_of edge)")" ] && say "rotated, the same image"

say "secrets found: $( (kubectl get machineosbuild,machineosconfig -o yaml; kubectl -n "$NS" get configmap -o yaml;
    kubectl get events -A -o yaml; cat "$SCRATCH/serve.log"; grep -rhao 3cret-value "$BUILD_CACHE" || true) | grep -c '3cret-value' || true)"

kubectl -n "$NS" delete secret login >&3
gone() { message mcp/edge ImageBuildDegraded | grep -q 'no Secret'; }
eventually 60 gone
message mcp/edge ImageBuildDegraded
