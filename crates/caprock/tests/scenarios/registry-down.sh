# The registry that an image is pushed to does not answer: the build says so and goes on trying; naming another one mends it.
push_base
pool edge
condition mcp/edge RenderDegraded False
image edge <<'TEXT'
FROM configs AS final
LABEL made=yes
TEXT
# Nobody listens on the discard port.
kubectl patch machineosconfig edge --type merge -p '{"spec":{"renderedImagePushSpec":"127.0.0.1:9/os/edge:latest"}}' >&3
unreachable() { message mcp/edge ImageBuildDegraded | grep -q '127.0.0.1:9'; }
WAIT=120 condition mcp/edge ImageBuildDegraded True
eventually 120 unreachable
message mcp/edge ImageBuildDegraded

kubectl patch machineosconfig edge --type merge -p "{\"spec\":{\"renderedImagePushSpec\":\"$REGISTRY/os/edge:latest\"}}" >&3
WAIT=120 condition mcp/edge ImageBuildDegraded False
eventually 60 built edge
say "corrected, built"
