#!/bin/bash
# Shifts the traffic of a Service to its canary, step by step.

service="myapp"

for canary in 10 25 50 75 100; do
    stable=$((100 - canary))
    echo "canary: ${canary} %"

    kubectl apply -f - <<EOF
apiVersion: networking.istio.io/v1beta1
kind: VirtualService
metadata:
  name: ${service}-canary
  namespace: default
spec:
  hosts:
    - ${service}
  http:
    - route:
        - destination:
            host: ${service}
            subset: stable
          weight: ${stable}
        - destination:
            host: ${service}
            subset: canary
          weight: ${canary}
EOF

    if [ "$canary" -lt 100 ]; then
        sleep 300
    fi
done
