#!/bin/sh
kubectl apply -f canary.yaml
