/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SELFTESTS_VFIO_LIB_INCLUDE_LIBVFIO_MODULE_H
#define SELFTESTS_VFIO_LIB_INCLUDE_LIBVFIO_MODULE_H

/*
 * Load a module of test_modules, from there if this program is beside it, or from
 * where modprobe finds it. Returns why it is not there, or NULL.
 */
const char *module_load(const char *name);

#endif /* SELFTESTS_VFIO_LIB_INCLUDE_LIBVFIO_MODULE_H */
