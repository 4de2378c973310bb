# SPDX-License-Identifier: GPL-2.0-only
#
# The front door.  Each target is one script; the scripts know what they need.

S := scripts
KERNEL ?= fast
export LINUX JOBS

.DEFAULT_GOAL := help

##@ For everybody
demo: ## fetch, patch, build and boot Linux, drive EDU and run the kselftests
	@$(S)/demo.sh
check: ## every check of the project, from cheap to dear
	@$(S)/check.sh
series: packages ## render the mails into build/series/, ready for git am
	@$(S)/series.sh

##@ For work on the series
tree: packages ## make build/linux: the base plus one commit a mail
	@$(S)/tree.sh
refresh: ## write the commits of build/linux back to series/ and the new files
	@$(S)/refresh.sh
kernel: packages ## build a kernel of build/linux (KERNEL=fast or debug)
	@$(S)/tree.sh --keep
	@$(S)/kernel.sh $(KERNEL)
boot: kernel ## boot it and run the kselftests (KERNEL=, PLAN=file)
	@$(S)/boot.sh $(KERNEL) $(PLAN)

bench: ## what mapping device memory costs, on stock and on the series
	@$(S)/bench.sh

##@ About
help: ## this screen
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z]+:.*## / { sub(/:.*/, "", $$1); printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@printf '\nVariables\n  %-14s %s\n  %-14s %s\n  %-14s %s\n' \
		'LINUX=/path' 'your own tree instead of Debian'\''s Linux 7.3; it stays untouched' \
		'KERNEL=name' 'fast (default) or debug' \
		'JOBS=n' 'how many compilers at once (default: all cores)'
clean: ## remove everything made (build/ also holds the tree you may have worked in)
	@$(S)/tree-guard.sh
	rm -rf build

packages:
	@$(S)/packages.sh

.PHONY: demo check series tree refresh kernel boot bench help clean packages
