# Misspelt fields are refused before anything is stored.
! kubectl create -f - 2>&1 <<'YAML' | stable
apiVersion: machineconfiguration.openshift.io/v1
kind: MachineConfigPool
metadata:
  name: edge
  annotation: {description: a field that does not exist}
spec:
  machineConfigSelectr: {}
YAML
! kubectl get mcp edge 2>&1
