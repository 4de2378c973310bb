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
check: ## every check of the project, or some (CHECK="name...")
	@$(S)/check.sh $(CHECK)
series: packages ## render the mails into build/series/, ready for git am
	@$(S)/series.sh

##@ For work on the series
tree: packages ## make build/linux: the base plus one commit a mail
	@$(S)/tree.sh
refresh: ## write the commits of build/linux back to series/ and the new files
	@$(S)/refresh.sh
kernel: packages ## build a kernel of build/linux (KERNEL=fast, debug, plain or arm64)
	@$(S)/tree.sh --keep
	@$(S)/kernel.sh $(KERNEL)
boot: kernel ## boot it and run the kselftests, or one of them (KERNEL=, PLAN=file)
	@$(S)/selftests.sh --for $(KERNEL)
	@$(S)/boot.sh $(if $(PLAN),--plan $(PLAN)) $(BOOT) $(KERNEL)

soak: ## the races on the debug kernel, a thousand rounds of each (ROUNDS=)
	@$(S)/soak.sh $(ROUNDS)
mutants: packages ## break the series in one place after the other: what the tests miss
	@$(S)/mutants.sh --all
walk: packages ## build each mail in every configuration, for hours
	@$(S)/tree.sh --keep
	@$(S)/check-commits.sh --each
coverage: ## which changed lines of the kernel the tests reach, file by file
	@$(S)/coverage.sh
bench: ## what mapping device memory costs, on stock and on the series
	@$(S)/bench.sh

##@ About
help: ## this screen
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z]+:.*## / { sub(/:.*/, "", $$1); printf "  make %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@printf '\nVariables\n'; printf '  %-16s %s\n' \
		'LINUX=/path' 'your own tree instead of Debian'\''s Linux 7.3; it stays untouched' \
		'KERNEL=name' 'fast (default), debug, plain or arm64' \
		'PLAN=file' 'what to run in the guest: lines like those of scripts/plans/all' \
		'BOOT="option..."' 'for the guest: see scripts/boot.sh --help' \
		'CHECK="name..."' 'some checks and what they need: scripts/check.sh --list' \
		'CHECK_JOBS=n' 'checks side by side (default: by the memory there is)' \
		'ROUNDS=n' 'of each race in a soak' \
		'QEMU=path' 'another QEMU than the one found' \
		'LAB_ACCEL=tcg' 'or kvm: instead of trying which of them works' \
		'JOBS=n' 'compilers at once (default: all cores)'
	@printf '\nREADME.md says what this is, CONTRIBUTING.md how to change it.\n'
clean: ## remove everything made (build/ also holds the tree you may have worked in)
	@$(S)/tree-guard.sh
	rm -rf build

packages:
	@$(S)/packages.sh

.PHONY: demo check series tree refresh kernel boot soak mutants walk coverage bench help clean packages
