/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef SELFTESTS_VFIO_LIB_INCLUDE_LIBVFIO_MEMORY_STATE_H
#define SELFTESTS_VFIO_LIB_INCLUDE_LIBVFIO_MEMORY_STATE_H

#include <stdbool.h>

struct vfio_pci_device;

/**
 * struct vfio_pci_memory_event - Something that disables a device's memory
 * @name: Its name
 * @unsupported: Why this device, or this kernel, does not have it; NULL if it has
 * @disable: The memory is disabled when this returns
 * @enable: The memory is enabled when this returns. If there is none, this is a
 *	reset: the memory is enabled again when @disable returns.
 */
struct vfio_pci_memory_event {
	const char *name;
	const char *(*unsupported)(struct vfio_pci_device *device);
	void (*disable)(struct vfio_pci_device *device);
	void (*enable)(struct vfio_pci_device *device);
};

extern const struct vfio_pci_memory_event vfio_pci_memory_decode;
extern const struct vfio_pci_memory_event vfio_pci_d3hot;
extern const struct vfio_pci_memory_event vfio_pci_external_reset;
extern const struct vfio_pci_memory_event vfio_pci_low_power;
extern const struct vfio_pci_memory_event vfio_pci_function_reset;
extern const struct vfio_pci_memory_event vfio_pci_hot_reset;
extern const struct vfio_pci_memory_event vfio_pci_flr;

#endif /* SELFTESTS_VFIO_LIB_INCLUDE_LIBVFIO_MEMORY_STATE_H */
