# What the scripts of this folder share.
# shellcheck shell=bash

# The folder of a mirror of Terraform's providers: the one that holds `registry.terraform.io/hashicorp/aws`. Nothing where there
# is none, and an error where TF_PLUGIN_DIR names a folder that is none.
mirror() {
    local place
    if [[ -n "${TF_PLUGIN_DIR:-}" ]]; then
        if [[ ! -d "$TF_PLUGIN_DIR/registry.terraform.io/hashicorp/aws" ]]; then
            printf '%s\n' "TF_PLUGIN_DIR=$TF_PLUGIN_DIR holds no registry.terraform.io/hashicorp/aws" >&2
            return 1
        fi
        printf '%s\n' "$TF_PLUGIN_DIR"
        return
    fi
    for place in /usr/share/terraform/plugins /usr/local/share/terraform/plugins "$HOME/.terraform.d/plugins" \
        "$HOME/.local/share/terraform/plugins" /opt /opt/* /usr/local/share/*; do
        if [[ -d "$place/registry.terraform.io/hashicorp/aws" ]]; then
            printf '%s\n' "$place"
            return
        fi
    done
}
