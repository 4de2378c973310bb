// SPDX-License-Identifier: GPL-2.0-only
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <sys/ioctl.h>

#include <linux/limits.h>
#include <linux/pci_regs.h>
#include <linux/vfio.h>

#include <libvfio.h>

/* Memory decode, as a guest switches it */

static const char *always_supported(struct vfio_pci_device *device)
{
	return NULL;
}

static void decode_disable(struct vfio_pci_device *device)
{
	vfio_pci_cmd_clear(device, PCI_COMMAND_MEMORY);
}

static void decode_enable(struct vfio_pci_device *device)
{
	vfio_pci_cmd_set(device, PCI_COMMAND_MEMORY);
}

const struct vfio_pci_memory_event vfio_pci_memory_decode = {
	.name = "memory decode",
	.unsupported = always_supported,
	.disable = decode_disable,
	.enable = decode_enable,
};

/* D3hot by the power management capability */

static const char *d3hot_unsupported(struct vfio_pci_device *device)
{
	if (!vfio_pci_find_capability(device, PCI_CAP_ID_PM))
		return "The device has no power management capability";
	return NULL;
}

static void set_power_state(struct vfio_pci_device *device, u16 state)
{
	u8 pm = vfio_pci_find_capability(device, PCI_CAP_ID_PM);
	u16 ctrl = vfio_pci_config_readw(device, pm + PCI_PM_CTRL);

	ctrl &= ~PCI_PM_CTRL_STATE_MASK;
	vfio_pci_config_writew(device, pm + PCI_PM_CTRL, ctrl | state);

	ctrl = vfio_pci_config_readw(device, pm + PCI_PM_CTRL);
	VFIO_ASSERT_EQ(ctrl & PCI_PM_CTRL_STATE_MASK, state);
}

static void d3hot_disable(struct vfio_pci_device *device)
{
	set_power_state(device, 3);
}

static void d3hot_enable(struct vfio_pci_device *device)
{
	set_power_state(device, 0);
}

const struct vfio_pci_memory_event vfio_pci_d3hot = {
	.name = "D3hot",
	.unsupported = d3hot_unsupported,
	.disable = d3hot_disable,
	.enable = d3hot_enable,
};

/*
 * D3hot, and back to D0 by a reset of which vfio is not told: the state of a device
 * is not what vfio did to it.
 */

static const char *external_reset_unsupported(struct vfio_pci_device *device)
{
	if (!sysfs_device_can_reset(device->bdf))
		return "The kernel has no way to reset the device";
	return d3hot_unsupported(device);
}

static void external_reset_enable(struct vfio_pci_device *device)
{
	u8 pm = vfio_pci_find_capability(device, PCI_CAP_ID_PM);
	u16 ctrl;

	sysfs_device_reset(device->bdf);

	ctrl = vfio_pci_config_readw(device, pm + PCI_PM_CTRL);
	VFIO_ASSERT_EQ(ctrl & PCI_PM_CTRL_STATE_MASK, 0);
}

const struct vfio_pci_memory_event vfio_pci_external_reset = {
	.name = "external reset",
	.unsupported = external_reset_unsupported,
	.disable = d3hot_disable,
	.enable = external_reset_enable,
};

/* Low power, as VFIO offers it */

static int low_power_feature(struct vfio_pci_device *device, u32 flags)
{
	struct vfio_device_feature feature = {
		.argsz = sizeof(feature),
		.flags = flags,
	};

	return ioctl(device->fd, VFIO_DEVICE_FEATURE, &feature) ? -errno : 0;
}

static const char *low_power_unsupported(struct vfio_pci_device *device)
{
	u32 probe = VFIO_DEVICE_FEATURE_PROBE | VFIO_DEVICE_FEATURE_SET;

	if (low_power_feature(device, probe | VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY) ||
	    low_power_feature(device, probe | VFIO_DEVICE_FEATURE_LOW_POWER_EXIT))
		return "The driver has no low power feature";
	return NULL;
}

static void low_power_disable(struct vfio_pci_device *device)
{
	u32 set = VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY;

	VFIO_ASSERT_EQ(low_power_feature(device, set), 0);
}

static void low_power_enable(struct vfio_pci_device *device)
{
	u32 set = VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_LOW_POWER_EXIT;

	VFIO_ASSERT_EQ(low_power_feature(device, set), 0);
}

const struct vfio_pci_memory_event vfio_pci_low_power = {
	.name = "low power",
	.unsupported = low_power_unsupported,
	.disable = low_power_disable,
	.enable = low_power_enable,
};

/* VFIO_DEVICE_RESET */

static const char *function_reset_unsupported(struct vfio_pci_device *device)
{
	if (!(device->info.flags & VFIO_DEVICE_FLAGS_RESET))
		return "The device cannot be reset";
	return NULL;
}

const struct vfio_pci_memory_event vfio_pci_function_reset = {
	.name = "VFIO_DEVICE_RESET",
	.unsupported = function_reset_unsupported,
	.disable = vfio_pci_device_reset,
};

/* VFIO_DEVICE_PCI_HOT_RESET, of a device that is alone on its bus */

/*
 * A port above 5 GT/s that can tell whether its link is active, and says no
 * although the device is there: that is what QEMU's are like where hotplug is
 * ACPI's. After a reset of the bus the kernel waits for the link if the device
 * has power management, and gives it up for lost.
 */
static bool port_has_no_link(struct vfio_pci_device *device)
{
	u8 config[PCI_CFG_SPACE_SIZE], pos;
	char path[PATH_MAX];
	int fd, ttl = 48;
	u32 lnkcap;
	u16 lnksta;

	snprintf_assert(path, sizeof(path), "/sys/bus/pci/devices/%s/../config", device->bdf);
	fd = open(path, O_RDONLY);
	if (fd < 0)
		return false;
	VFIO_ASSERT_EQ(read(fd, config, sizeof(config)), sizeof(config));
	VFIO_ASSERT_EQ(close(fd), 0);

	pos = config[PCI_CAPABILITY_LIST];
	while (pos && config[pos + PCI_CAP_LIST_ID] != PCI_CAP_ID_EXP && ttl--)
		pos = config[pos + PCI_CAP_LIST_NEXT];
	if (!pos || pos > sizeof(config) - PCI_EXP_LNKSTA - sizeof(lnksta))
		return false;

	memcpy(&lnkcap, config + pos + PCI_EXP_LNKCAP, sizeof(lnkcap));
	memcpy(&lnksta, config + pos + PCI_EXP_LNKSTA, sizeof(lnksta));
	return (le32toh(lnkcap) & PCI_EXP_LNKCAP_SLS) > PCI_EXP_LNKCAP_SLS_5_0GB &&
	       (le32toh(lnkcap) & PCI_EXP_LNKCAP_DLLLARC) &&
	       !(le16toh(lnksta) & PCI_EXP_LNKSTA_DLLLA);
}

static const char *hot_reset_unsupported(struct vfio_pci_device *device)
{
	struct vfio_pci_hot_reset_info info = {
		.argsz = sizeof(info),
	};

	/* With room for no device it fails, and tells how many there are. */
	if (!ioctl(device->fd, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, &info))
		return "There is nothing to reset";
	if (errno != ENOSPC)
		return "The device has no bus or slot to reset";
	if (info.count != 1)
		return "There are other devices on the bus";
	if (vfio_pci_find_capability(device, PCI_CAP_ID_PM) && port_has_no_link(device))
		return "The port of the device never says that its link is active";
	return NULL;
}

static void hot_reset_disable(struct vfio_pci_device *device)
{
	struct vfio_pci_hot_reset *reset;
	size_t argsz = sizeof(*reset) + sizeof(reset->group_fds[0]);

	reset = calloc_assert(1, argsz);
	reset->argsz = argsz;
	/* Without a group the device's iommufd tells that the bus is ours. */
	if (device->group_fd) {
		reset->count = 1;
		reset->group_fds[0] = device->group_fd;
	}
	ioctl_assert(device->fd, VFIO_DEVICE_PCI_HOT_RESET, reset);
	free(reset);
}

const struct vfio_pci_memory_event vfio_pci_hot_reset = {
	.name = "VFIO_DEVICE_PCI_HOT_RESET",
	.unsupported = hot_reset_unsupported,
	.disable = hot_reset_disable,
};

/* Function level reset by the PCI Express capability, as a guest does it */

static const char *flr_unsupported(struct vfio_pci_device *device)
{
	u8 exp = vfio_pci_find_capability(device, PCI_CAP_ID_EXP);

	if (!exp || !(vfio_pci_config_readl(device, exp + PCI_EXP_DEVCAP) & PCI_EXP_DEVCAP_FLR))
		return "The device has no function level reset";
	return NULL;
}

static void flr_disable(struct vfio_pci_device *device)
{
	u8 exp = vfio_pci_find_capability(device, PCI_CAP_ID_EXP);
	u16 ctl = vfio_pci_config_readw(device, exp + PCI_EXP_DEVCTL);

	vfio_pci_config_writew(device, exp + PCI_EXP_DEVCTL, ctl | PCI_EXP_DEVCTL_BCR_FLR);
}

const struct vfio_pci_memory_event vfio_pci_flr = {
	.name = "FLR",
	.unsupported = flr_unsupported,
	.disable = flr_disable,
};
