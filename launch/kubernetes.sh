#!/usr/bin/env bash
# Puts a run on a Kubernetes cluster, or shows what it would put there. For Linux and macOS: nothing newer than bash 3.2.
set -euo pipefail
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

usage() {
  printf '%s\n' "Usage: launch/kubernetes.sh --cloud=CLOUD --hparams=NAME --image=IMAGE [flags] [-- flags for every program]" \
    "  --cloud          gke, eks, aks or kind: whose storage the run's folder is on" \
    "  --hparams        the hyper-parameters: names in configs/, joined by -" \
    "  --image          of launch/Dockerfile, where the cluster finds it; kind gets it from this machine" \
    "  --num_actors     how many actors (4)" \
    "  --replay_shards  how many replay servers (1)" \
    "  --overlay        gpu, spot, tpu, tpu-slice; spot goes with each of the others: gpu,spot" \
    "  --name           of the run; one namespace holds many (encore)" \
    "  --namespace      which must exist (default)" \
    "  --storage_class  of the run's folder, where the cloud's usual one is not meant" \
    "  --dry_run        print the manifests, and do nothing" \
    "  --delete         remove the run --name; its volumes stay"
}
fail() { printf 'kubernetes.sh: %s\n' "$1" >&2; exit "${2:-2}"; }

cloud='' hparams='' image='' num_actors=4 replay_shards=1 overlay='' name=encore namespace=default storage_class=''
dry_run='' delete=''
while [ $# -gt 0 ]; do
  case "$1" in
    --cloud=*) cloud=${1#*=} ;;
    --hparams=*) hparams=${1#*=} ;;
    --image=*) image=${1#*=} ;;
    --num_actors=*) num_actors=${1#*=} ;;
    --replay_shards=*) replay_shards=${1#*=} ;;
    --overlay=*) overlay=${1#*=} ;;
    --name=*) name=${1#*=} ;;
    --namespace=*) namespace=${1#*=} ;;
    --storage_class=*) storage_class=${1#*=} ;;
    --dry_run) dry_run=yes ;;
    --delete) delete=yes ;;
    --) shift; break ;;
    -h | --help) usage; exit 0 ;;
    *) fail "unknown argument '$1': flags are written --name=value, and those of the programs stand after --; see launch/kubernetes.sh --help." ;;
  esac
  shift
done

label='^[a-z]([a-z0-9-]*[a-z0-9])?$'
# Pods' names, which begin with it, have an end.
[[ $name =~ $label && ${#name} -le 30 ]] || fail "--name=$name: at most 30 small letters, digits and -, a letter first."
[[ $namespace =~ $label ]] || fail "--namespace=$namespace: small letters, digits and -, a letter first."
command -v kubectl >/dev/null || fail "kubectl is not installed: it is all that this script needs, see kubernetes.io/docs/tasks/tools."

selector=app.kubernetes.io/name=encore,app.kubernetes.io/instance=$name
if [ -n "$delete" ]; then
  kinds=statefulsets,deployments,jobs,services,networkpolicies,configmaps
  # Only a cluster that has JobSets can be asked for them.
  if [ -n "$(kubectl api-resources --api-group=jobset.x-k8s.io --output=name)" ]; then kinds=$kinds,jobsets.jobset.x-k8s.io; fi
  kubectl delete "$kinds" --namespace="$namespace" --selector="$selector" ${dry_run:+--dry-run=client} ||
    fail "kubectl could not remove the run '$name'; its own message stands above." 1
  printf "The volumes stay, with checkpoints, results and replay: the same command without --delete goes on with them. To remove them too:\n  kubectl delete persistentvolumeclaims --namespace=%s --selector=%s\n" "$namespace" "$selector"
  exit 0
fi

case "$cloud" in
  gke | eks | aks | kind) ;;
  '') fail "no cloud was chosen: add --cloud=gke, eks, aks or kind." ;;
  *) fail "--cloud=$cloud: it must be gke, eks, aks or kind." ;;
esac
[ -n "$hparams" ] || fail "no hyper-parameters were chosen: add --hparams=NAME, for example --hparams=dqn_cartpole."
[[ $hparams =~ ^[A-Za-z0-9_]+(-[A-Za-z0-9_]+)*$ ]] || fail "--hparams=$hparams: it must be names in configs/, joined by -."
[ -n "$image" ] || fail "no image was chosen: build launch/Dockerfile, and add --image=REGISTRY/NAME:TAG."
[[ $image =~ ^[A-Za-z0-9][A-Za-z0-9._/@:-]*$ ]] || fail "--image=$image is no name of an image."
[[ -z $storage_class || $storage_class =~ ^[a-z0-9][a-z0-9.-]*$ ]] || fail "--storage_class=$storage_class is no name of a storage class."
number='^[1-9][0-9]{0,3}$'
[[ $num_actors =~ $number ]] || fail "--num_actors=$num_actors: it must be a whole number from 1 to 9999."
[[ $replay_shards =~ $number ]] || fail "--replay_shards=$replay_shards: it must be a whole number from 1 to 9999."

imports=''
for flag in ${1+"$@"}; do
  [[ $flag =~ ^--[a-z_]+(=.*)?$ && $flag != *$'\n'* ]] || fail "'$flag' after -- is no flag: flags are written --name=value, on one line."
  if [[ $flag == --import=* ]]; then imports=yes; fi
done
# A pod would take minutes to say so. Modules that --import names have hyper-parameters of their own.
for part in ${hparams//-/ }; do
  [ -n "$imports" ] || [ -f "$here/../configs/$part.gin" ] || fail "there are no hyper-parameters '$part': configs/$part.gin does not exist."
done

learners=0
for part in ${overlay//,/ }; do
  case "$part" in
    gpu) learners=$((learners + 1)) ;;
    tpu | tpu-slice)
      learners=$((learners + 1))
      [ "$cloud" = gke ] || fail "--overlay=$part: TPUs are in Google's clusters only, and --cloud is $cloud." ;;
    spot) [ "$cloud" != kind ] || fail "--overlay=spot: a kind cluster has no spot nodes." ;;
    *) fail "--overlay=$overlay: '$part' is none of gpu, spot, tpu and tpu-slice." ;;
  esac
done
[ $learners -le 1 ] || fail "--overlay=$overlay: the learner runs on one of gpu, tpu and tpu-slice."

folder=$(mktemp -d "${TMPDIR:-/tmp}/encore.XXXXXX")
trap 'rm -rf "$folder"' EXIT
# kustomize reads no file outside its folders, so a link is followed here.
cp -RL "$here/kubernetes/." "$folder"
mkdir "$folder/run"

printf '%s\n' "--hparams=$hparams" ${1+"$@"} >"$folder/run/run.flags"
replay=''
for ((shard = 0; shard < replay_shards; shard++)); do
  replay=$replay${replay:+,}$name-replay-$shard.$name-replay:8000
done
# kustomize takes the parts of host:5000/name:tag and of host:5000/name@digest.
parts="newName: $image"
if [[ $image == *@* ]]; then
  parts="newName: ${image%%@*}
    digest: ${image#*@}"
elif [[ ${image##*/} == *:* ]]; then
  parts="newName: ${image%:*}
    newTag: \"${image##*:}\""
fi
{
  printf '%s\n' "apiVersion: kustomize.config.k8s.io/v1beta1" "kind: Kustomization" \
    "namespace: \"$namespace\"" "namePrefix: $name-" \
    "resources:" "  - ../base" "components:" "  - ../clouds/$cloud"
  for part in ${overlay//,/ }; do printf '  - ../overlays/%s\n' "$part"; done
  cat <<END
labels:
  - pairs:
      app.kubernetes.io/name: encore
      app.kubernetes.io/instance: "$name"
    includeSelectors: true
images:
  - name: encore
    $parts
replicas:
  - name: replay
    count: $replay_shards
configMapGenerator:
  - name: flags
    behavior: merge
    files:
      - run.flags
    literals:
      - REPLAY=$replay
      - SHARDS=$replay_shards
      - NUM_ACTORS=$num_actors
patches:
  - target:
      kind: Job
      name: actor
    patch: |-
      - op: replace
        path: /spec/completions
        value: $num_actors
      - op: replace
        path: /spec/parallelism
        value: $num_actors
END
  if [ -n "$storage_class" ]; then
    cat <<END
  - target:
      kind: PersistentVolumeClaim
      name: run
    patch: |-
      - op: replace
        path: /spec/storageClassName
        value: "$storage_class"
END
  fi
} >"$folder/run/kustomization.yaml"
kubectl kustomize "$folder/run" >"$folder/run.yaml" || fail "kubectl could not render the manifests; its own message stands above." 1
if [ -n "$dry_run" ]; then
  cat "$folder/run.yaml"
  exit 0
fi

if [ "$cloud" = kind ]; then
  command -v kind >/dev/null || fail "kind is not installed, and --cloud=kind needs it to take the image into the cluster."
  context=$(kubectl config current-context || true)
  [[ $context == kind-* ]] || fail "kubectl's current context is '$context', and a kind cluster's begins with 'kind-': kubectl config use-context kind-NAME chooses one."
  kind load docker-image "$image" --name "${context#kind-}" || fail "kind could not load the image $image; its own message stands above." 1
fi
kubectl apply --filename="$folder/run.yaml" ||
  fail "kubectl could not apply the run '$name'; its own message stands above. What is immutable changes only with another --name, or after --delete." 1
printf '%s\n' "The run '$name' is on its way. To see it:" \
  "  kubectl get pods --namespace=$namespace --selector=$selector" \
  "  kubectl logs --follow --namespace=$namespace --selector=$selector,app.kubernetes.io/component=learner" \
  "  kubectl port-forward --namespace=$namespace service/$name-tensorboard 6006"
